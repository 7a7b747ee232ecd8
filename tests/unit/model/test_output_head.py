"""Scores by blocks of the vocabulary equal those of whole logits, gradients too, and hold one chunk at a time."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from covt_model.checkpoints.lora import RowHead
from covt_model.latents.output_head import Scoring, scoring_head

WIDTH = 8


def make_head(vocabulary: int, *, bias: bool, ids: tuple[int, ...], dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(vocabulary)
    head = nn.Linear(WIDTH, vocabulary, bias=bias)
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    if ids:
        rows = nn.Parameter(torch.randn(len(ids), WIDTH, generator=generator))
        return RowHead(head, ids, rows).to(dtype)
    return head.to(dtype)


def plain(head: nn.Module, states: torch.Tensor, scoring: Scoring) -> tuple[torch.Tensor, torch.Tensor]:
    """By whole logits and PyTorch's own functions."""
    logits = head(states).float()
    if scoring.temperature > 0:
        logits = logits / scoring.temperature
    banned = torch.zeros(logits.shape[1], dtype=torch.bool)
    banned[list(scoring.banned)] = True
    logprobs = logits.masked_fill(banned, float("-inf")).log_softmax(-1)
    allowed = logprobs[:, ~banned]
    entropy = -(allowed.exp() * allowed).sum(-1)
    return logprobs.gather(1, scoring.targets[:, None]).squeeze(1), entropy


def gradients(head: nn.Module, states: torch.Tensor, scores: Any, weights: Any) -> list[torch.Tensor]:
    total = sum((score * weight).sum() for score, weight in zip(scores, weights, strict=True) if weight is not None)
    return list(torch.autograd.grad(total, [states, *head.parameters()]))


@given(
    count=st.integers(0, 7),
    vocabulary=st.integers(4, 40),
    chunk=st.sampled_from([1, 64, 300, 10_000]),
    temperature=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    banned=st.sampled_from([(), (1,), (0, 2)]),
    bias=st.booleans(),
    ids=st.sampled_from([(), (3,), (0, 3, 2)]),
    wanted=st.sampled_from(["logprobs", "entropy", "both"]),
    seed=st.integers(0, 99),
)
def test_scores_and_gradients_equal_those_of_whole_logits(
    count, vocabulary, chunk, temperature, banned, bias, ids, wanted, seed
):
    generator = torch.Generator().manual_seed(seed)
    head = make_head(vocabulary, bias=bias, ids=ids)
    states = torch.randn(count, WIDTH, generator=generator).requires_grad_()
    allowed = torch.tensor([token for token in range(vocabulary) if token not in banned])
    targets = allowed[torch.randint(0, len(allowed), (count,), generator=generator)]
    scoring = Scoring(targets=targets, temperature=temperature, banned=banned, entropy=True, chunk_bytes=chunk)
    weights = [torch.randn(count, generator=generator) for _ in range(2)]
    weights = [weights[0] if wanted != "entropy" else None, weights[1] if wanted != "logprobs" else None]
    expected = plain(head, states, scoring)
    ours = scoring_head(head)(states, scoring)
    for found, right in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    theirs = gradients(head, states, expected, weights)
    for found, right in zip(gradients(head, states, ours, weights), theirs, strict=True):
        assert float((found - right).norm()) <= 1e-5 * max(float(right.norm()), 1e-3)


def test_an_entropy_that_is_not_wanted_is_zero_and_frozen_weights_get_no_gradient():
    head = scoring_head(make_head(30, bias=True, ids=()).requires_grad_(False))
    states = torch.randn(5, WIDTH).requires_grad_()
    logprobs, entropy = head(states, Scoring(targets=torch.arange(5)))
    assert not entropy.any()
    logprobs.sum().backward()
    assert states.grad is not None and all(p.grad is None for p in head.parameters())


def test_in_bf16_gradients_are_no_further_from_fp32_than_whole_logits_are():
    generator = torch.Generator().manual_seed(1)
    head = make_head(200, bias=False, ids=(), dtype=torch.bfloat16)
    wide = nn.Linear(WIDTH, 200, bias=False)
    wide.weight.data = head.weight.data.float()
    states = torch.randn(64, WIDTH, generator=generator).bfloat16().requires_grad_()
    scoring = Scoring(targets=torch.randint(0, 200, (64,), generator=generator), chunk_bytes=5_000)
    exact_states = states.detach().float().requires_grad_()
    ones = [torch.ones(64), None]
    exact = gradients(wide, exact_states, plain(wide, exact_states, scoring), ones)
    whole = gradients(head, states, plain(head, states, scoring), ones)
    ours = gradients(head, states, scoring_head(head)(states, scoring), ones)
    for right, theirs, found in zip(exact, whole, ours, strict=True):
        assert found.dtype == torch.bfloat16
        assert float((found.float() - right).norm()) <= 1.2 * float((theirs.float() - right).norm())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given_ = {
            tensor.untyped_storage().data_ptr() for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)
        }
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                self.count(tensor.untyped_storage(), given_)
        return result

    def count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        place = storage.data_ptr()
        if not storage.nbytes() or place in before or place in self.known:
            return
        size = storage.nbytes()
        self.known.add(place)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.release, place, size)

    def release(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.live -= size


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_than_a_chunk_of_logits_is_held(dtype: torch.dtype, entropy: bool):
    count, vocabulary, chunk = 64, 20_000, 1 << 20
    head = scoring_head(make_head(vocabulary, bias=False, ids=(), dtype=dtype))
    states = torch.randn(count, WIDTH).to(dtype).requires_grad_()
    scoring = Scoring(targets=torch.arange(count), entropy=entropy, chunk_bytes=chunk)
    with LiveBytes() as ours:
        logprobs, spread = head(states, scoring)
        (logprobs.sum() + spread.sum()).backward()
    gradient = sum(p.nbytes for p in head.parameters()) + 4 * states.nbytes
    small = 200 * count * 4
    assert ours.peak <= chunk + gradient + small
    with LiveBytes() as whole:
        logprobs, spread = plain(head, states, scoring)
        (logprobs.sum() + spread.sum()).backward()
    assert whole.peak >= 10 * chunk


def test_a_head_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="Identity"):
        scoring_head(nn.Identity())
