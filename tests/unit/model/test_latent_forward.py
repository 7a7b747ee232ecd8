"""The KV-incremental latent forward equals the full-prefix reference, in values and in all gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from covt_model.feedback import feedback
from covt_model.latent_forward import latent_forward
from covt_model.reference import reference_forward

SIZE = 4


@st.composite
def mixed_batches(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Rows as (text lengths between segments, pads of each segment); a last segment may be cut off."""
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        segments = draw(st.integers(0, 3))
        texts = [draw(st.integers(1, 5))] + [draw(st.integers(1, 4)) for _ in range(segments)]
        pads = [SIZE] * segments
        if segments and draw(st.booleans()):
            pads[-1] = draw(st.integers(1, SIZE))
            texts[-1] = 0 if pads[-1] < SIZE else texts[-1]
        rows.append((texts, pads))
    return rows


def lay_out(rows):
    lengths = [sum(texts) + sum(pads) for texts, pads in rows]
    spans = []
    for texts, pads in rows:
        at, row = texts[0], []
        for text, count in zip(texts[1:], pads, strict=True):
            row.append((at, at + count))
            at += count + text
        spans.append(row)
    mask = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return spans, mask


def weighted_loss(hidden: torch.Tensor, mask: torch.Tensor, head: torch.nn.Module) -> torch.Tensor:
    logits = head(hidden)[mask.bool()]
    weights = torch.sin(torch.arange(logits.numel())).view_as(logits)
    return (logits.softmax(-1) * weights).sum() + (logits * weights).mean()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("normalize", ["rms", "none"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=mixed_batches(), seed=st.integers(0, 1000), idle=st.integers(0, 1))
def test_equals_the_full_prefix_reference(tiny_model, checkpoint, normalize, rows, seed, idle):
    language_model, head = tiny_model.model.language_model, tiny_model.lm_head
    parameters = list(language_model.parameters())
    spans, mask = lay_out(rows)
    generator = torch.Generator().manual_seed(seed)
    embeds = (0.3 * torch.randn(*mask.shape, 64, generator=generator)).requires_grad_()
    positions = torch.arange(mask.shape[1]).expand(3, *mask.shape) + torch.randint(
        0, 3, (3, mask.shape[0], 1), generator=generator
    )
    rule = partial(feedback, normalize=normalize)
    segments = max(len(row) for row in spans) + idle
    ours = latent_forward(
        language_model, embeds, positions, mask, spans, rule, size=SIZE, max_segments=segments, checkpoint=checkpoint
    )
    theirs = reference_forward(language_model, embeds, positions, mask, spans, rule)
    assert relative(head(ours)[mask.bool()], head(theirs)[mask.bool()]) <= 1e-4
    our_gradients = torch.autograd.grad(weighted_loss(ours, mask, head), [embeds, *parameters], allow_unused=True)
    their_gradients = torch.autograd.grad(weighted_loss(theirs, mask, head), [embeds, *parameters], allow_unused=True)
    kept = mask.bool().clone()
    for row, ranges in enumerate(spans):
        for start, end in ranges:
            kept[row, start:end] = False
    assert relative(our_gradients[0][kept], their_gradients[0][kept]) <= 1e-4
    for ours_, theirs_ in zip(our_gradients[1:], their_gradients[1:], strict=True):
        assert (ours_ is None) == (theirs_ is None)
        if ours_ is not None and theirs_.norm() > 1e-6:
            assert relative(ours_, theirs_) <= 1e-4


def test_given_latents_equal_the_rows_own_when_they_are_the_same(tiny_model):
    language_model = tiny_model.model.language_model
    spans, mask = lay_out([([3, 2, 2], [4, 4]), ([2, 1], [4])])
    embeds = torch.randn(*mask.shape, 64, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(mask.shape[1]).expand(3, *mask.shape)
    rule = partial(feedback, normalize="rms")
    with torch.no_grad():
        own = latent_forward(language_model, embeds, positions, mask, spans, rule, size=SIZE)
        latents = torch.cat([rule(own[row, s - 1 : e - 1]) for row, ranges in enumerate(spans) for s, e in ranges])
        given_ = latent_forward(language_model, embeds, positions, mask, spans, rule, size=SIZE, latents=latents)
        other = latent_forward(language_model, embeds, positions, mask, spans, rule, size=SIZE, latents=latents * 0)
    assert relative(given_[mask.bool()], own[mask.bool()]) <= 1e-5
    assert relative(other[mask.bool()], own[mask.bool()]) > 1e-2


def test_latents_carry_gradient_back_to_the_prompt(tiny_model):
    """Only through the latents: with given ones, the loss on what follows reaches the prompt by attention alone."""
    spans, mask = lay_out([([3, 2], [4])])
    embeds = torch.randn(*mask.shape, 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    positions = torch.arange(mask.shape[1]).expand(3, *mask.shape)
    rule = partial(feedback, normalize="rms")
    language_model = tiny_model.model.language_model
    hidden = latent_forward(language_model, embeds, positions, mask, spans, rule, size=SIZE)
    own = torch.autograd.grad(hidden[0, -1].sum(), embeds)[0]
    latents = rule(hidden.detach()[0, 2:6])
    fixed = latent_forward(language_model, embeds, positions, mask, spans, rule, size=SIZE, latents=latents)
    cut = torch.autograd.grad(fixed[0, -1].sum(), embeds)[0]
    assert relative(own[:, :3], cut[:, :3]) > 1e-2


def test_too_few_segments_and_transformers_checkpointing_are_refused(tiny_model):
    spans, mask = lay_out([([3, 2], [4])])
    embeds = torch.randn(*mask.shape, 64)
    positions = torch.arange(mask.shape[1]).expand(3, *mask.shape)
    language_model = tiny_model.model.language_model
    with pytest.raises(ValueError, match="max_segments"):
        latent_forward(language_model, embeds, positions, mask, spans, feedback, size=SIZE, max_segments=0)
    with pytest.raises(ValueError, match="spans"):
        latent_forward(language_model, embeds, positions, mask, spans, feedback, size=3)
    tiny_model.gradient_checkpointing_enable()
    try:
        with pytest.raises(ValueError, match="checkpointing"):
            latent_forward(language_model, embeds, positions, mask, spans, feedback, size=SIZE)
    finally:
        tiny_model.gradient_checkpointing_disable()
