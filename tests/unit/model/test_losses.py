"""Losses against formulas written out; sums and counts of parts add up to the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from covt_model.encoding.encode import IGNORE
from covt_model.latents.feedback import feedback, noise
from covt_model.latents.training_losses import alignment_loss, sampled_logprobs, token_loss


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(8, 11, bias=False)
    hidden = torch.randn(3, 6, 8, generator=generator)
    labels = torch.randint(0, 11, (3, 6), generator=generator)
    labels[0, :3], labels[1, 2], labels[2] = IGNORE, IGNORE, IGNORE
    return head, hidden, labels


def test_token_loss_equals_shifted_cross_entropy_and_splits_into_rows(parts):
    head, hidden, labels = parts
    loss = token_loss(head, hidden, labels)
    logits = head(hidden)[:, :-1].reshape(-1, 11)
    expected = functional.cross_entropy(logits, labels[:, 1:].reshape(-1), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss.total, expected)
    assert loss.count == int((labels[:, 1:] != IGNORE).sum()) == 7
    rows = [token_loss(head, hidden[row : row + 1], labels[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(sum(row.total for row in rows), loss.total)
    assert rows[2].count == 0 and rows[2].total.requires_grad


def test_alignment_is_one_minus_cosine_to_the_state_before_the_pad():
    hidden = torch.zeros(2, 3, 2)
    hidden[0, 1] = torch.tensor([2.0, 0.0])
    hidden[1, 0] = torch.tensor([1.0, 1.0])
    targets = torch.tensor([[1.0, 1.0], [-3.0, -3.0]], requires_grad=True)
    loss = alignment_loss(hidden.requires_grad_(), torch.tensor([2, 4]), targets)
    assert float(loss.total.detach()) == pytest.approx((1 - math.sqrt(0.5)) + 2) and loss.count == 2
    loss.total.backward()
    assert targets.grad is None


def test_sampled_logprobs_are_of_the_masked_tempered_distribution(parts):
    head, hidden, labels = parts
    labels = labels.masked_fill((labels == 3) | (labels == 4), 5)
    logprobs, entropy = sampled_logprobs(head, hidden, labels, temperature=0.5, banned=(3, 4))
    for b in range(3):
        for t in range(6):
            if t == 0 or labels[b, t] == IGNORE:
                assert logprobs[b, t] == 0 and entropy[b, t] == 0
                continue
            logits = head(hidden[b, t - 1]) / 0.5
            allowed = [i for i in range(11) if i not in (3, 4)]
            distribution = logits[allowed].softmax(-1)
            expected = distribution[allowed.index(int(labels[b, t]))].log()
            torch.testing.assert_close(logprobs[b, t], expected)
            torch.testing.assert_close(entropy[b, t], -(distribution * distribution.log()).sum())
    gradient = torch.autograd.grad(logprobs.sum() + entropy.sum(), head.weight)[0]
    assert gradient.isfinite().all() and (gradient[[3, 4]] == 0).all()


def test_feedback_divides_by_the_root_mean_square_in_fp32_and_noise_keeps_the_norm():
    hidden = torch.tensor([3.0, 4.0], dtype=torch.bfloat16)
    assert feedback(hidden, "none") is hidden
    out = feedback(hidden, "rms")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), hidden.float() / math.sqrt(12.5), rtol=1e-2, atol=0)
    with pytest.raises(ValueError, match="layer"):
        feedback(hidden, "layer")
    own = torch.randn(64)
    first = noise(1, 0, own)
    torch.testing.assert_close(first.norm(), own.norm())
    assert torch.equal(first, noise(1, 0, own))
    assert not torch.allclose(first, noise(1, 1, own)) and not torch.allclose(first, noise(2, 0, own))
