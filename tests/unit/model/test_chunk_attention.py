"""Attention of a later chunk to a longer prefix: the definition's values and gradients, without mask and scores."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from model_samples import text_model
from torch.utils._python_dispatch import TorchDispatchMode

from covt_model.decoder.attention import Chunk, additive, extend
from covt_model.decoder.kv_buffer import LayerCache
from covt_model.decoder.varlen_attention import choose_attention, torch_varlen
from covt_model.latents.feedback import feedback
from covt_model.latents.latent_forward import latent_forward
from covt_model.model_errors import ModelError

HEADS, GROUPS, WIDTH = 4, 2, 8


def by_definition(queries, keys, values, used, start):
    """softmax(QKᵀ/√D)·V over the used earlier slots and the own ones up to the query's, all scores at once, fp64."""
    length = queries.shape[1]
    queries, keys, values = (part.double().transpose(1, 2) for part in (queries, keys, values))
    keys, values = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (keys, values))
    own = torch.ones(length, length, dtype=torch.bool).tril()
    visible = torch.cat([used[:, None, :].expand(-1, length, -1), own.expand(len(used), -1, -1)], -1)
    scores = (queries @ keys.transpose(2, 3) / WIDTH**0.5).masked_fill(~visible[:, None], -torch.inf)
    return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)


def random_chunk(rows, start, length, ragged, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(slots, heads):
        return torch.randn(rows, slots, heads, WIDTH, generator=generator).requires_grad_()

    used = torch.ones(rows, start, dtype=torch.bool)
    if ragged:
        for row in range(1, rows):
            used[row, start // 2 : start - row] = False
    return [draw(start, GROUPS) for _ in range(2)], [draw(length, heads) for heads in (HEADS, GROUPS, GROUPS)], used


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("rows", "start", "length", "ragged"), [(1, 9, 5, False), (3, 17, 6, True), (2, 40, 1, True), (1, 1, 70, False)]
)
def test_a_chunk_attends_as_defined(rows, start, length, ragged, masked):
    """masked: the form of GPUs without a kernel, which needs no GPU itself."""
    prefix, own, used = random_chunk(rows, start, length, ragged)
    cache = LayerCache(start + length)
    earlier = extend(cache, *prefix, 0)
    # In a model a chunk follows from the stretches before it.
    linked = [own[0] + 0 * sum(part.sum() for part in earlier), *own[1:]]
    chunk = Chunk(start, additive(used, torch.float32)[:, None, None] if ragged else None)
    attend = chunk._attend_masked if masked else chunk
    out = attend(*linked, cache)
    every = [torch.cat(parts, 1) for parts in zip(prefix, own[1:], strict=True)]
    expected = by_definition(own[0], *every, used, start)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    weights = torch.sin(torch.arange(out.numel())).view_as(out)
    found = torch.autograd.grad((out * weights).sum(), [*prefix, *own])
    for ours, theirs in zip(found, torch.autograd.grad((expected * weights).sum(), [*prefix, *own]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the shape of the largest tensor that an operation makes."""

    shape: tuple[int, ...] = ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, list | tuple) else [result]:
            if isinstance(made, torch.Tensor) and made.numel() > torch.Size(self.shape).numel():
                self.shape = tuple(made.shape)
        return result


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_no_tensor_has_a_place_for_each_query_and_key(packed, checkpoint):
    """Forward and backward of rows whose later chunks have 180 and more queries over 400 and more keys."""
    model = text_model()
    lengths, spans = [420, 390], [[(200, 204)], [(100, 104), (204, 208)]]
    generator = torch.Generator().manual_seed(0)
    shape, places = (2, max(lengths)), torch.arange(max(lengths)).expand(3, 2, -1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    embeds = torch.randn(*shape, model.config.hidden_size, generator=generator).requires_grad_()
    inputs = (embeds, places, mask.long())
    if packed:
        inputs = (embeds[mask][None], places[:, mask][:, None], torch.ones(1, sum(lengths)))
    with LargestTensor() as largest:
        hidden = latent_forward(
            model, *inputs, spans, partial(feedback, normalize="rms"),
            size=4, checkpoint=checkpoint, lengths=lengths if packed else None,
        )  # fmt: skip
        hidden.square().sum().backward()
    # The widest thing that has to be there: the MLP's activations of all slots.
    assert torch.Size(largest.shape).numel() <= 2 * max(lengths) * model.config.intermediate_size, largest.shape


def test_recipes_choose_by_device_and_dtype(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index == 0 else (7, 5))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    installed = {"flash_attn": False}
    find = "covt_model.decoder.varlen_attention.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: object() if installed[name] else None)
    assert choose_attention("auto", "cpu", torch.bfloat16) == "sdpa"
    assert choose_attention("auto", "cuda:0", torch.float32) == "sdpa"
    assert choose_attention("auto", "cuda:1", torch.bfloat16) == "sdpa"
    assert choose_attention("auto", "cuda:0", torch.bfloat16) == "varlen"
    installed["flash_attn"] = True
    assert choose_attention("auto", "cuda:0", torch.bfloat16) == "flash_attention_2"
    assert choose_attention("sdpa", "cuda:0", torch.bfloat16) == "sdpa"
    with pytest.raises(ModelError, match="attention is 'eager'") as caught:
        choose_attention("eager", "cpu", torch.float32)
    assert "auto" in caught.value.remedy


def test_pytorchs_kernel_is_called_as_it_is_declared():
    """On the meta device, where shapes are checked but nothing is computed."""
    queries, keys, values = (
        torch.empty(length, heads, WIDTH, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for length, heads in ((7, HEADS), (20, GROUPS), (20, GROUPS))
    )
    out = torch_varlen(queries, keys, values, [4, 0, 3], [9, 6, 5])
    assert out.shape == queries.shape
    gradients = torch.autograd.grad(out.sum(), [queries, keys, values])
    assert [gradient.shape for gradient in gradients] == [queries.shape, keys.shape, values.shape]
