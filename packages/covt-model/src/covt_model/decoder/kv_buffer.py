"""Keys and values of one layer, written stretch by stretch into one buffer, with gradients.

Concatenating them anew for each latent step would copy the whole prefix forward and backward. Here a stretch is written
in place and attention reads a view; in the backward pass each call adds to one gradient buffer, and a stretch takes its
share out when all later ones are through. That order is given: each call's input depends on the output before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class LayerCache:
    """keys, values: [B, kv heads, S, D], filled up to slot `used`, allocated at the first write.

    The first stretch has all B rows; later ones may have fewer, always the first ones.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.used = 0
        self.keys = self.values = torch.empty(0)
        self.key_gradient: torch.Tensor | None = None
        self.value_gradient: torch.Tensor | None = None
        # Steps' shares of the gradients before their run of steps, as factors: summed in one product for all of them.
        self.waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def write(self, keys: torch.Tensor, values: torch.Tensor, start: int) -> int:
        """Put keys and values [B, kv heads, L, D] from slot `start` on; returns the slot after the last."""
        if not self.used:
            shape = (*keys.shape[:2], self.slots, keys.shape[3])
            self.keys, self.values = keys.new_empty(shape), values.new_empty(shape)
        stop = start + keys.shape[2]
        self.keys[: len(keys), :, start:stop] = keys
        self.values[: len(keys), :, start:stop] = values
        self.used = max(self.used, stop)
        return stop

    def visible(self, rows: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the first rows up to slot `stop`.

        `data`: later writes to other slots don't invalidate what is saved.
        """
        return self.keys.data[:rows, :, :stop], self.values.data[:rows, :, :stop]

    def gradients(self, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient buffers [B, kv heads, S, D]; new ones for the last stretch, where a backward pass begins."""
        if stop == self.used or self.key_gradient is None or self.value_gradient is None:
            self.key_gradient, self.value_gradient = torch.zeros_like(self.keys), torch.zeros_like(self.values)
            self.waiting.clear()
        return self.key_gradient, self.value_gradient

    def take_gradients(self, rows: int, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What all calls have added for slots `start` to `stop` of the first rows; the first stretch takes the last."""
        assert self.key_gradient is not None and self.value_gradient is not None
        own = self.key_gradient[:rows, :, start:stop], self.value_gradient[:rows, :, start:stop]
        if start == 0:
            self.key_gradient = self.value_gradient = None
        return own

    def add_waiting(self, stop: int) -> None:
        """Add what the steps after slot `stop` have left for the slots before it."""
        if not self.waiting:
            return
        scores, queries, weights, gradients = (torch.cat(parts, 1) for parts in zip(*self.waiting, strict=True))
        self.waiting.clear()
        for total, left, right in zip(self.gradients(stop), (scores, weights), (queries, gradients), strict=True):
            total.flatten(0, 1)[: len(left), :stop] += torch.bmm(left.transpose(1, 2), right)


class Extend(torch.autograd.Function):
    """Append keys and values [B, kv heads, L, D] at slot `start`; returns all up to there, [B, kv heads, stop, D]."""

    @staticmethod
    def forward(ctx: Any, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, start: int) -> Any:
        stop = cache.write(keys, values, start)
        ctx.cache, ctx.rows, ctx.start, ctx.stop = cache, len(keys), start, stop
        return cache.visible(len(keys), stop)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        cache, rows, start, stop = ctx.cache, ctx.rows, ctx.start, ctx.stop
        for total, gradient in zip(cache.gradients(stop), gradients, strict=True):
            total[:rows, :, :stop] += gradient
        cache.add_waiting(stop)
        return None, *cache.take_gradients(rows, start, stop), None


class AttendStep(torch.autograd.Function):
    """`attend_step` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        cache: LayerCache,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        start: int,
        first: int,
    ) -> torch.Tensor:
        out, saved = attend_step(cache, queries, keys, values, mask, start)
        ctx.cache, ctx.start, ctx.first = cache, start, first
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        found = attend_step_gradients(ctx.cache, gradients[0], ctx.saved_tensors, ctx.start, ctx.first)
        return None, *found, None, None, None


Saved = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def attend_step(
    cache: LayerCache,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    start: int,
) -> tuple[torch.Tensor, Saved]:
    """Attention of a single position per row to its own and all earlier slots.

    queries: [B, heads, D]; keys, values: [B, kv heads, D], which are appended at slot `start`; mask: additive, fp32,
    [B·kv heads, 1, start + 1] or None. Returns [B, heads, D] and what `attend_step_gradients` wants.
    """
    rows, groups, width = keys.shape
    stop = cache.write(keys[:, :, None], values[:, :, None], start)
    all_keys, all_values = (part.flatten(0, 1) for part in cache.visible(rows, stop))
    grouped = queries.reshape(rows * groups, -1, width)  # consecutive query heads share a key head
    scores = torch.bmm(grouped, all_keys.transpose(1, 2)).float().mul_(width**-0.5)
    weights = (scores if mask is None else scores.add_(mask)).softmax(-1).to(queries.dtype)
    return torch.bmm(weights, all_values).view(queries.shape), (grouped, all_keys, all_values, weights)


def attend_step_gradients(
    cache: LayerCache, gradient: torch.Tensor, saved: Sequence[torch.Tensor], start: int, first: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of a step's queries, keys and values from that of its output [B, heads, D].

    first: the slot where the run of steps begins. Gradients of slots before it wait for the stretch that ends there.
    """
    queries, keys, values, weights = saved
    stop, shape = start + 1, gradient.shape
    gradient = gradient.reshape(queries.shape)
    scores = torch.ops.aten._softmax_backward_data(
        torch.bmm(gradient, values.transpose(1, 2)), weights, -1, weights.dtype
    ).mul_(queries.shape[-1] ** -0.5)
    sums = cache.gradients(stop)
    for total, left, right in zip(sums, (scores, weights), (queries, gradient), strict=True):
        total.flatten(0, 1)[: len(left), first:stop] += torch.bmm(left[:, :, first:].transpose(1, 2), right)
    cache.waiting.append((scores[:, :, :first], queries, weights[:, :, :first], gradient))
    own_keys, own_values = cache.take_gradients(shape[0], start, stop)
    return torch.bmm(scores, keys).view(shape), own_keys[:, :, 0], own_values[:, :, 0]
