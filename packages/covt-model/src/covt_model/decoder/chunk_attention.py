"""Attention of a chunk of text to the slots before it and to itself, on a CPU without mask and without scores.

The slots before the chunk are visible to all of its queries, and within the chunk the order alone decides. So it is two
calls of PyTorch's flash kernel, one over the earlier slots and one that is causal, whose outputs are merged by their
log-sum-exps; given the merged output and log-sum-exp, the kernel's backward pass of each part gives exactly the part's
share of the gradients (Dao, arXiv 2205.14135, appendix B).
"""

from __future__ import annotations

from typing import Any

import torch

from covt_model.decoder.kv_buffer import LayerCache

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class AttendChunk(torch.autograd.Function):
    """Append a chunk's keys and values at slot `start`, and let its queries attend to all slots up to their own.

    queries: [B, heads, L, D]. keys, values: [B, kv heads, L, D]. mask: additive [B, 1, 1, start], over the earlier
    slots, or None where all of them are used. Each row's unused slots of the chunk come last: no used one sees them.
    Returns [B, heads, L, D].
    """

    @staticmethod
    def forward(
        ctx: Any,
        cache: LayerCache,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        start: int,
    ) -> torch.Tensor:
        stop = cache.write(keys, values, start)
        all_keys, all_values = cache.visible(len(keys), stop)
        out, total = _forward(queries, all_keys[:, :, start:], all_values[:, :, start:], 0.0, True)
        if start:
            earlier = all_keys[:, :, :start], all_values[:, :, :start]
            earlier_out, earlier_total = _forward(queries, *earlier, attn_mask=mask)
            own_total, total = total, torch.logaddexp(total, earlier_total)
            own_share = (own_total - total).exp_()[..., None].to(out.dtype)
            out = torch.lerp(earlier_out, out, own_share)
        ctx.save_for_backward(queries, all_keys, all_values, out, total, mask)
        ctx.cache, ctx.start, ctx.stop = cache, start, stop
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        queries, keys, values, out, total, mask = ctx.saved_tensors
        cache, start, stop = ctx.cache, ctx.start, ctx.stop
        sums, rows, query_gradient = cache.gradients(stop), len(queries), None
        parts = [(slice(start, stop), True, None)] + ([(slice(0, start), False, mask)] if start else [])
        for slots, causal, part_mask in parts:
            part = keys[:, :, slots], values[:, :, slots]
            found, *shares = _backward(gradients[0], queries, *part, out, total, 0.0, causal, attn_mask=part_mask)
            query_gradient = found if query_gradient is None else query_gradient.add_(found)
            for share, into in zip(shares, sums, strict=True):
                into[:rows, :, slots] += share
        cache.add_waiting(stop)
        return None, query_gradient, *cache.take_gradients(rows, start, stop), None, None
