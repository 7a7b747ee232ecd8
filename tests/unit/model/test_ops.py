"""The decoder's own operations equal Transformers' modules and torch's attention, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from covt_model.decoder import layer_ops
from covt_model.decoder.attention import FP32_TOKENS, sdpa
from covt_model.decoder.kv_buffer import AttendStep, Extend, LayerCache
from covt_model.decoder.layer_ops import RmsNorm, Rotate, SwiGlu, linear, linear_gradient, signed_sines
from covt_model.decoder.shared_linear import MANY, SharedLinear


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).requires_grad_()


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    weights = torch.sin(torch.arange(ours.numel()).float()).view_as(ours)
    gradients = (torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs))
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_the_norm_is_qwens():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRMSNorm

    norm, x = Qwen2_5_VLRMSNorm(12), random(3, 5, 12)
    norm.weight.data = random(12).detach()
    assert_same(RmsNorm.apply(x, norm.weight, norm.variance_epsilon), norm(x), [x, norm.weight])


def test_the_rotation_is_qwens():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

    x, angles = random(2, 5, 3, 8), random(2, 5, 4).detach()
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    theirs, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
    assert_same(Rotate.apply(x, cos, signed_sines(sin)), theirs.transpose(1, 2), [x])


def test_the_gate_is_silu():
    gate, up = random(4, 7), random(4, 7, seed=1)
    assert_same(SwiGlu.apply(gate, up), functional.silu(gate) * up, [gate, up])


@pytest.mark.parametrize("bias", [True, False])
def test_a_shared_linear_layer_has_the_gradient_of_all_its_calls(bias):
    """Few positions, many positions, and few again, the first call's output feeding the others."""
    module, x = torch.nn.Linear(6, 6, bias=bias), random(2, MANY, 6)

    def run(linear):
        first = linear(x)
        return torch.cat([first, linear(first[:, :3]), linear(first[:, 3:4] * 2)], dim=1)

    assert_same(run(SharedLinear(module)), run(module), [x, *module.parameters()])


@pytest.mark.parametrize("masked", [False, True])
def test_stretches_and_steps_over_a_cache_equal_one_causal_attention(masked):
    """A stretch of 5, three steps and a stretch of 2, each of whose queries depends on the output before."""
    rows, heads, groups, size, total = 2, 4, 2, 8, 10
    queries, keys, values = (
        random(rows, heads, total, size),
        *(random(rows, groups, total, size, seed=s) for s in (1, 2)),
    )
    hidden = torch.zeros(rows, total, dtype=torch.bool)
    if masked:
        hidden[1, 3:6] = True
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(rows, 1, total, total).masked_fill(torch.ones(total, total).triu(1).bool(), lowest)
    mask = mask.masked_fill(hidden[:, None, None, :], lowest)
    mask[:, :, range(total), range(total)] = 0

    def attend(q, k, v, m):
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=m, enable_gqa=True)

    def chained(step):
        outputs = []
        for start, stop in ((0, 5), (5, 6), (6, 7), (7, 8), (8, 10)):
            link = outputs[-1].mean(2, keepdim=True) if outputs else 0
            outputs.append(step(queries[:, :, start:stop] + link, start, stop))
        return torch.cat(outputs, 2)

    cache = LayerCache(total)

    def ours(q, start, stop):
        new = keys[:, :, start:stop], values[:, :, start:stop]
        if stop - start > 1:
            return attend(q, *Extend.apply(cache, *new, start), mask[:, :, start:stop, :stop])
        flat = mask[:, 0, start : start + 1, :stop].repeat_interleave(groups, 0) if masked else None
        out = AttendStep.apply(cache, q[:, :, 0], new[0][:, :, 0], new[1][:, :, 0], flat, start, 5)
        return out[:, :, None]

    def theirs(q, start, stop):
        return attend(q, keys[:, :, :stop], values[:, :, :stop], mask[:, :, start:stop, :stop])

    assert_same(chained(ours), chained(theirs), [queries, keys, values])


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(("outputs", "bias"), [(12, True), (12, False), (10, True)])
def test_a_linear_layer_of_few_rows_is_the_linear_layer(
    rows: int, outputs: int, bias: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(layer_ops, "slow_vector_products", lambda: True)
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 7, generator=generator), torch.randn(outputs, 7, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    torch.testing.assert_close(linear(x, weight, offset), torch.nn.functional.linear(x, weight, offset))
    gradient = torch.randn(rows, outputs, generator=generator)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(linear_gradient(gradient, weight), gradient @ weight)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("tokens", "widened"), [(67, True), (FP32_TOKENS + 1, False)])
def test_short_rows_in_bf16_attend_in_fp32_on_a_cpu(tokens: int, widened: bool):
    """Rounded once, where PyTorch's own attention in bf16 rounds in between; gradients arrive in bf16."""
    parts = [random(2, heads, tokens, 64, seed=heads).detach().bfloat16().requires_grad_() for heads in (9, 3, 3)]
    exact = [part.detach().float().requires_grad_() for part in parts]
    out = sdpa(*parts)
    expected = functional.scaled_dot_product_attention(*exact, is_causal=True, enable_gqa=True).transpose(1, 2)
    assert torch.equal(out, expected.flatten(2).bfloat16()) is widened
    gradients = torch.autograd.grad(out.float().square().sum(), parts)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    for found, reference in zip(gradients, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(found.float(), reference, rtol=0.1, atol=0.1)
