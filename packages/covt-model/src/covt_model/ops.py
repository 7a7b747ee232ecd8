"""A decoder layer's elementwise operations with written-out derivatives: few kernels and one graph node each.

Through autograd of their parts they cost more than the matrix products between them, in a small model for the number of
calls and in a large one for the memory traffic. Values equal Transformers' Qwen2.5-VL modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class RmsNorm(torch.autograd.Function):
    """`weight · x / √(mean(x²) + eps)` over the last dimension, the quotient in fp32. x: [..., H]; weight: [H]."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out, scale = normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return *normed_gradients(gradients[0], *ctx.saved_tensors), None


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The normed x and the scale [..., 1] in fp32 that `normed_gradients` wants."""
    wide = x.float()
    scale = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * scale).to(x.dtype) * weight, scale


def normed_gradients(
    gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and weight from that of the normed x."""
    gradient, unit = gradient.float(), x.float() * scale
    weight_gradient = (gradient * unit).flatten(0, -2).sum(0).to(weight.dtype)
    weighted = gradient * weight
    along = (weighted * unit).mean(-1, keepdim=True)
    return weighted.addcmul_(unit, along, value=-1).mul_(scale).to(x.dtype), weight_gradient


class Rotate(torch.autograd.Function):
    """Rotary embedding of x [..., heads, D] by cos and sin [..., D], whose halves are equal and get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return rotated(gradients[0], cos, sin, -1), None, None


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    """x turned by the angles (direction 1), or back (−1), which is the derivative."""
    half = x.shape[-1] // 2
    sin = sin[..., None, :half]
    out = x * cos[..., None, :]
    out[..., :half].addcmul_(x[..., half:], sin, value=-direction)
    out[..., half:].addcmul_(x[..., :half], sin, value=direction)
    return out


class SwiGlu(torch.autograd.Function):
    """`silu(gate) · up`, elementwise; keeps the two inputs only."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return gate_gradients(gradients[0], gate, up)


def gate_gradients(gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of gate and up from that of `silu(gate) · up`."""
    return torch.ops.aten.silu_backward(gradient * up, gate), functional.silu(gate).mul_(gradient)
