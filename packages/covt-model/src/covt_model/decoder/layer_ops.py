"""A decoder layer's elementwise operations with written-out derivatives: few kernels and one graph node each.

Through autograd of their parts they cost more than the matrix products between them, in a small model for the number of
calls and in a large one for the memory traffic. Values equal those of Transformers' modules.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

FEW, PIECES = 4, 4
"""Up to so many rows a linear layer is cheaper as a batch of products with so many pieces of its weight, on CPUs whose
products with a vector are slow."""


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
    """Rotary embedding of x [..., heads, D] by cosines and `signed_sines` [..., D], which get no gradient."""

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
    swapped = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos[..., None, :], swapped, sin[..., None, :], value=direction)


def signed_sines(sin: torch.Tensor) -> torch.Tensor:
    """Sines [..., D] as `rotated` takes them: the first half, which multiplies the second half of x, is negative."""
    first, second = sin.chunk(2, -1)
    return torch.cat([-first, second], -1)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`functional.linear` of x [N, inputs], on a CPU also fast where N is small.

    On AMD's CPUs a product of MKL's with a vector, or with a few of them on the left, takes over twice as long as
    reading the weight; its batched product of pieces of the weight with the transposed x does not. On Intel's it is the
    other way round.
    """
    if len(x) > FEW or not _in_pieces(x, weight):
        return functional.linear(x, weight, bias)
    pieces = torch.bmm(weight.view(PIECES, -1, x.shape[1]), x.t().expand(PIECES, -1, -1))
    out = pieces.flatten(0, 1).t().contiguous()
    return out if bias is None else out.add_(bias)


def linear_gradient(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of `linear`'s x from that of its output [N, outputs]; for few rows the threads share the sum."""
    if len(gradient) > 2 * FEW or torch.get_num_threads() == 1 or not _in_pieces(gradient, weight):
        return gradient @ weight
    pieces = gradient.unflatten(1, (PIECES, -1)).transpose(0, 1)
    return torch.bmm(pieces, weight.view(PIECES, -1, weight.shape[1])).sum(0)


def _in_pieces(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return slow_vector_products() and (
        x.device.type == "cpu" and x.dtype == torch.float32 and len(weight) % PIECES == 0
    )


@cache
def slow_vector_products() -> bool:
    """Whether this CPU is one on which MKL's products with a vector are slow: it is AMD's."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and "AuthenticAMD" in info.read_text(encoding="utf-8", errors="replace")


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
