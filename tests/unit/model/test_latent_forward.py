"""The KV-incremental latent forward equals the full-prefix reference, in values and in all gradients."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import text_model

from covt_model.decoder.deepstack import Deepstack
from covt_model.families import known_families
from covt_model.latents.feedback import feedback
from covt_model.latents.latent_forward import latent_forward
from covt_model.latents.reference_forward import reference_forward

SIZE = 4


@pytest.fixture(scope="module", params=known_families())
def grouped(request):
    """Two query heads a key head, biases and norms that are not their initial values."""
    return text_model(request.param)


@pytest.fixture(scope="module")
def head() -> torch.nn.Linear:
    """A seeded output head: with an unlucky one, rounding alone passes the tolerance."""
    linear = torch.nn.Linear(64, 19, bias=False)
    linear.weight.data = torch.randn(19, 64, generator=torch.Generator().manual_seed(4)) / 8
    return linear


@st.composite
def mixed_batches(draw: st.DrawFn) -> list[tuple[list[int], list[int]]]:
    """Rows as (text lengths between segments, pads of each segment); a last segment may be cut off."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        segments = draw(st.integers(0, 5))
        texts = [draw(st.integers(1, 9))] + [draw(st.integers(1, 4)) for _ in range(segments)]
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


def random_inputs(mask: torch.Tensor, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [B, T, width] and positions [3, B, T] that start anywhere."""
    generator = torch.Generator().manual_seed(seed)
    embeds = 0.3 * torch.randn(*mask.shape, width, generator=generator)
    starts = torch.randint(0, 3, (3, mask.shape[0], 1), generator=generator)
    return embeds.requires_grad_(), torch.arange(mask.shape[1]).expand(3, *mask.shape) + starts


def visual_levels(model, rows, mask: torch.Tensor, seed: int) -> Deepstack | None:
    """Two levels of random features for every second token before a row's first latent, where the model takes them."""
    if not hasattr(model, "_deepstack_process"):
        return None
    index = [row * mask.shape[1] + t for row, (texts, _) in enumerate(rows) for t in range(0, texts[0], 2)]
    generator = torch.Generator().manual_seed(seed + 1)
    levels = 0.3 * torch.randn(2, len(index), model.config.hidden_size, generator=generator)
    return Deepstack(torch.tensor(index), levels.requires_grad_())


def weighted_loss(logits: torch.Tensor) -> torch.Tensor:
    """A sum over logits [N, V] that no symmetry makes zero."""
    weights = torch.sin(torch.arange(logits.numel())).view_as(logits)
    return (logits.softmax(-1) * weights).sum() + (logits * weights).mean()


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))


def packed_forward(model, embeds, positions, mask, spans, rule, deepstack=None, **options):
    """`latent_forward` over the rows laid end to end, without their padding; returns its tokens [N, H]."""
    keep, lengths = mask.bool(), mask.sum(1).tolist()
    if deepstack is not None:
        deepstack = deepstack.moved(keep.flatten().long().cumsum(0) - 1)
    flat = latent_forward(
        model, embeds[keep][None], positions[:, keep][:, None], torch.ones(1, int(keep.sum())), spans, rule,
        size=SIZE, lengths=lengths, deepstack=deepstack, **options,
    )  # fmt: skip
    return flat[0]


def compare(model, head, rows, seed, *, idle, packed, checkpoint, normalize, dtype=torch.float32, oracle=False):
    """(relative error of the logits, the largest of any parameter's or input's gradient) against the oracle.

    The oracle is in fp64 on the same (rounded) weights and inputs: in fp32 its own rounding may pass the tolerance
    after several segments. oracle: its run in `dtype` is compared, not ours.
    """
    spans, mask = lay_out(rows)
    embeds, positions = random_inputs(mask, model.config.hidden_size, seed)
    rule = partial(feedback, normalize=normalize)
    options = {"max_segments": max(map(len, spans)) + idle, "checkpoint": checkpoint}
    stacked = visual_levels(model, rows, mask, seed)
    exact = embeds, positions, mask, spans, rule, {}
    theirs, expected = _run(model, head, *exact, packed=False, dtype=torch.float64, oracle=True, stacked=stacked)
    given_ = embeds, positions, mask, spans, rule, options
    ours, gradients = _run(model, head, *given_, packed=packed, dtype=dtype, oracle=oracle, stacked=stacked)
    kept = mask.bool().clone()
    for row, ranges in enumerate(spans):
        for start, end in ranges:
            kept[row, start:end] = False
    errors = [relative(gradients[0][kept], expected[0][kept])]
    for ours_, theirs_ in zip(gradients[1:], expected[1:], strict=True):
        assert (ours_ is None) == (theirs_ is None)
        if theirs_ is not None and theirs_.norm() > 1e-5:
            errors.append(relative(ours_, theirs_))
    return relative(ours, theirs), max(errors)


def _run(model, head, embeds, positions, mask, spans, rule, options, *, packed, dtype, oracle, stacked):
    """(logits, gradients of inputs, weights and levels) of one forward pass in `dtype`."""
    if dtype != torch.float32:
        model, head = copy.deepcopy(model).to(dtype), copy.deepcopy(head).to(dtype)
    given_ = embeds.detach().to(dtype).requires_grad_()
    if stacked is not None:
        stacked = Deepstack(stacked.index, stacked.levels.detach().to(dtype).requires_grad_())
    options = options | {"deepstack": stacked}
    if oracle:
        states = reference_forward(model, given_, positions, mask, spans, rule, stacked)[mask.bool()]
    elif packed:
        states = packed_forward(model, given_, positions, mask, spans, rule, **options)
    else:
        states = latent_forward(model, given_, positions, mask, spans, rule, size=SIZE, **options)[mask.bool()]
    logits = head(states)
    wanted = [given_, *model.parameters(), *head.parameters(), *([] if stacked is None else [stacked.levels])]
    wide = logits.float() if dtype == torch.bfloat16 else logits
    return logits, torch.autograd.grad(weighted_loss(wide), wanted, allow_unused=True)


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("normalize", ["rms", "none"])
@settings(max_examples=6)
@given(rows=mixed_batches(), seed=st.integers(0, 1000), idle=st.integers(0, 1), packed=st.booleans())
def test_equals_the_full_prefix_reference(grouped, head, checkpoint, normalize, rows, seed, idle, packed):
    logits, gradients = compare(
        grouped, head, rows, seed, idle=idle, packed=packed, checkpoint=checkpoint, normalize=normalize
    )
    assert logits <= 1e-4 and gradients <= 1e-4


@pytest.mark.parametrize("checkpoint", [False, True])
def test_in_bf16_it_loses_no_more_than_the_oracle_does(grouped, head, checkpoint):
    """Against the fp32 oracle: logits to 3 %, gradients within 1.5 times what the oracle itself loses in bf16."""
    rows = [([9, 3, 2, 2], [4, 4, 4]), ([4, 2], [4]), ([7], [])]
    head = copy.deepcopy(head)
    head.weight.data = head.weight.data.bfloat16().float()
    rounded = copy.deepcopy(grouped).to(torch.bfloat16).float()
    common = {"idle": 0, "packed": False, "checkpoint": checkpoint, "normalize": "rms", "dtype": torch.bfloat16}
    logits, gradients = compare(rounded, head, rows, 0, **common)
    oracle_logits, oracle_gradients = compare(rounded, head, rows, 0, oracle=True, **common)
    assert 1e-4 < logits <= 0.03 and logits <= 1.5 * oracle_logits
    assert gradients <= 1.5 * oracle_gradients


def test_gradients_asked_for_twice_or_in_part_are_the_same(grouped):
    """Weight gradients are collected over the calls of a graph; a pass that doesn't want them leaves nothing behind."""
    spans, mask = lay_out([([5, 3, 2], [4, 4]), ([3, 2], [4])])
    embeds, positions = random_inputs(mask, 64, 5)
    rule = partial(feedback, normalize="rms")
    loss = latent_forward(grouped, embeds, positions, mask, spans, rule, size=SIZE)[mask.bool()].square().sum()
    parameters = [p for p in grouped.parameters() if p is not grouped.embed_tokens.weight]
    both = torch.autograd.grad(loss, [embeds, *parameters], retain_graph=True)
    (alone,) = torch.autograd.grad(loss, embeds, retain_graph=True)
    again = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(alone, both[0])
    for first, second in zip(both[1:], again, strict=True):
        torch.testing.assert_close(first, second)


def test_frozen_weights_and_modules_in_place_of_linear_layers_are_respected(grouped):
    """As with an adapter: the base is frozen, and a module of another kind stands where a projection was."""
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.down = nn.Linear(base.in_features, 2, bias=False)
            self.up = nn.Linear(2, base.out_features, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.up(self.down(x))

    model = copy.deepcopy(grouped).requires_grad_(False)
    for layer in model.layers:
        layer.self_attn.q_proj = Adapted(layer.self_attn.q_proj)
        layer.mlp.down_proj = Adapted(layer.mlp.down_proj)
    spans, mask = lay_out([([5, 3, 2], [4, 4]), ([3, 2], [4])])
    embeds, positions = random_inputs(mask, 64, 6)
    rule = partial(feedback, normalize="rms")
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 8
    ours = latent_forward(model, embeds.detach(), positions, mask, spans, rule, size=SIZE)[mask.bool()]
    theirs = reference_forward(model, embeds.detach(), positions, mask, spans, rule)[mask.bool()]
    gradients = (torch.autograd.grad(weighted_loss(states), trained) for states in (ours, theirs))
    for first, second in zip(*gradients, strict=True):
        assert relative(first, second) <= 1e-4


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


def kept_bytes(model, checkpoint: bool) -> int:
    """Bytes of the tensors that a forward over many latents keeps for its backward pass, without the weights."""
    rows = [([6, *[1] * 12], [SIZE] * 12), ([4, *[1] * 12], [SIZE] * 12)]
    spans, mask = lay_out(rows)
    embeds, positions = random_inputs(mask, 64, 7)
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its place is not used twice
        return tensor

    rule = partial(feedback, normalize="rms")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = latent_forward(model, embeds, positions, mask, spans, rule, size=SIZE, checkpoint=checkpoint)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    assert states.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize("adapted", [False, True])
def test_checkpointing_recomputes_the_latent_steps_too(grouped, adapted):
    """Also where a layer is taken operation by operation, because a module stands in place of a linear layer."""
    model = copy.deepcopy(grouped)
    if adapted:
        for layer in model.layers:
            layer.mlp.up_proj = torch.nn.Sequential(layer.mlp.up_proj)
    assert kept_bytes(model, checkpoint=True) <= kept_bytes(model, checkpoint=False) / 4
