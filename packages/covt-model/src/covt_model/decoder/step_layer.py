"""A whole decoder layer on one slot of every row, as one node of the graph.

A latent step has little arithmetic: taken operation by operation, most of its time would go into Python and autograd.
The formulas are those of `ops`, `kv` and `shared_linear`; only their composition is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from covt_model.decoder.kv_buffer import LayerCache, attend_step, attend_step_gradients
from covt_model.decoder.layer_ops import gate_gradients, linear, normed, normed_gradients, rotated
from covt_model.decoder.shared_linear import SharedLinear


@dataclass(frozen=True)
class StepWeights:
    """A layer's parameters: norm weights [H] with their eps, and the seven projections.

    query_norm, key_norm: weights [D] of the norms over each head, None where the architecture has none. recomputes:
    whether a step keeps its input only, and computes the rest again in the backward pass.
    """

    head_size: int
    input_norm: torch.Tensor
    mlp_norm: torch.Tensor
    eps: float
    queries: SharedLinear
    keys: SharedLinear
    values: SharedLinear
    output: SharedLinear
    gate: SharedLinear
    up: SharedLinear
    down: SharedLinear
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    recomputes: bool = False

    @property
    def links(self) -> tuple[torch.Tensor | None, ...]:
        """What ties the parameters into the graph."""
        projections = (self.queries, self.keys, self.values, self.output, self.gate, self.up, self.down)
        norms = self.input_norm, self.mlp_norm, self.query_norm, self.key_norm
        return *norms, *(projection.link for projection in projections)


@dataclass(frozen=True)
class Slot:
    """Where the step stands: its cosines and `signed_sines` [B, D], additive mask (see `attend_step`), slot, and the
    slot where the run of steps begins."""

    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor | None
    start: int
    first: int


class StepLayer(torch.autograd.Function):
    """hidden [B, H] → [B, H]: `apply(weights, slot, cache, hidden, *weights.links)`."""

    @staticmethod
    def forward(
        ctx: Any, weights: StepWeights, slot: Slot, cache: LayerCache, hidden: torch.Tensor, *links: torch.Tensor | None
    ) -> torch.Tensor:
        out, saved = _run(weights, slot, cache, hidden)
        ctx.weights, ctx.slot, ctx.cache = weights, slot, cache
        ctx.save_for_backward(*(saved[:1] if weights.recomputes else saved))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        saved = ctx.saved_tensors
        if ctx.weights.recomputes:
            # The same keys and values are written to the cache again.
            _, saved = _run(ctx.weights, ctx.slot, ctx.cache, *saved)
        hidden, scale, x, attended, middle, middle_scale, y, gate, up, active, *saved = saved
        w, slot, (gradient,) = ctx.weights, ctx.slot, gradients
        heads, saved = (saved[:4], saved[4:]) if w.query_norm is not None else ([], saved)
        gate_gradient, up_gradient = gate_gradients(w.down.back(active, gradient), gate, up)
        inner = w.gate.back(y, gate_gradient).add_(w.up.back(y, up_gradient))
        inner, mlp_norm = normed_gradients(inner, middle, w.mlp_norm, middle_scale)
        gradient = gradient + inner
        attended_gradient = w.output.back(attended, gradient).unflatten(1, (-1, w.head_size))
        queries, keys, values = attend_step_gradients(ctx.cache, attended_gradient, saved, slot.start, slot.first)
        queries, keys = (rotated(part, slot.cos, slot.sin, -1) for part in (queries, keys))
        query_norm = key_norm = None
        if w.query_norm is not None and w.key_norm is not None:
            queries, query_norm = normed_gradients(queries, heads[0], w.query_norm, heads[1])
            keys, key_norm = normed_gradients(keys, heads[2], w.key_norm, heads[3])
        inner = w.queries.back(x, queries.flatten(1)).add_(w.keys.back(x, keys.flatten(1)))
        inner = inner.add_(w.values.back(x, values.flatten(1)))
        inner, input_norm = normed_gradients(inner, hidden, w.input_norm, scale)
        return None, None, None, inner.add_(gradient), input_norm, mlp_norm, query_norm, key_norm, *[None] * 7


def _run(
    w: StepWeights, slot: Slot, cache: LayerCache, hidden: torch.Tensor
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The layer's output, and what its gradients follow from; the first of that is `hidden`."""
    heads = (-1, w.head_size)
    x, scale = normed(hidden, w.input_norm, w.eps)
    queries, keys, values = (_apply(p, x).unflatten(1, heads) for p in (w.queries, w.keys, w.values))
    of_heads: tuple[torch.Tensor, ...] = ()
    if w.query_norm is not None and w.key_norm is not None:
        (normed_queries, query_scale), (normed_keys, key_scale) = (
            normed(part, weight, w.eps) for part, weight in ((queries, w.query_norm), (keys, w.key_norm))
        )
        of_heads = queries, query_scale, keys, key_scale
        queries, keys = normed_queries, normed_keys
    queries, keys = (rotated(part, slot.cos, slot.sin, 1) for part in (queries, keys))
    attended, saved = attend_step(cache, queries, keys, values, slot.mask, slot.start)
    attended = attended.flatten(1)
    middle = hidden + _apply(w.output, attended)
    y, middle_scale = normed(middle, w.mlp_norm, w.eps)
    gate, up = _apply(w.gate, y), _apply(w.up, y)
    active = functional.silu(gate).mul_(up)
    out = middle + _apply(w.down, active)
    return out, (hidden, scale, x, attended, middle, middle_scale, y, gate, up, active, *of_heads, *saved)


def _apply(shared: SharedLinear, x: torch.Tensor) -> torch.Tensor:
    return linear(x, shared.weight, shared.bias)
