"""Which tokens see which: the attention of one stretch of a batch, as small callables that every layer shares.

Each takes queries [R, L, heads, D] and keys and values [R, L, kv heads, D] of the stretch's tokens after rotation, and
the layer's cache where the stretch continues another; it returns [R, L, heads · D].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from covt_model.decoder.chunk_attention import AttendChunk
from covt_model.decoder.kv_buffer import AttendStep, Extend, LayerCache
from covt_model.decoder.varlen_attention import Varlen

FP32_TOKENS = 128
"""On CPUs rows up to this length attend in fp32: PyTorch's backward in bf16 is four times as slow for 67 tokens, and
faster from about 512 on."""


def extend(
    cache: LayerCache, keys: torch.Tensor, values: torch.Tensor, start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Append a stretch's keys and values [B, L, kv heads, D]; returns all up to there, [B, kv heads, start + L, D]."""
    return Extend.apply(cache, keys.transpose(1, 2), values.transpose(1, 2), start)  # pyright: ignore[reportReturnType]


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Boolean mask → additive: 0 where visible, the dtype's lowest finite value elsewhere.

    A finite value keeps rows that see nothing (idle slots) free of NaN.
    """
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


class Attention(Protocol):
    """Attention of a stretch; `cache` is the layer's."""

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor: ...


def sdpa(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """[B, heads, L, D] over keys and values [B, kv heads, S, D], causal without a mask; returns [B, L, heads · D]."""
    dtype = queries.dtype
    if queries.device.type == "cpu" and dtype == torch.bfloat16 and keys.shape[2] <= FP32_TOKENS:
        queries, keys, values = queries.float(), keys.float(), values.float()
        mask = None if mask is None else mask.float()
    out = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return out.transpose(1, 2).flatten(2).to(dtype)


@dataclass(frozen=True)
class Causal:
    """Whole rows, padded on the right: no token sees padding, so no mask is needed."""

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        return sdpa(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2))


@dataclass(frozen=True)
class VarlenCausal:
    """As `Causal`, by a kernel for unequal lengths."""

    kernel: Varlen

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        rows, length = queries.shape[:2]
        lengths = [length] * rows
        out = self.kernel(queries.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), lengths, lengths)
        return out.view(rows, length, -1)


@dataclass(frozen=True)
class PackedCausal:
    """Several samples of `lengths` tokens in one row [1, sum of lengths, …]; none sees another."""

    lengths: Sequence[int]
    kernel: Varlen | None = None

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        if self.kernel is not None:
            return self.kernel(queries[0], keys[0], values[0], self.lengths, self.lengths).flatten(1)[None]
        parts = (part.transpose(1, 2).split(list(self.lengths), dim=2) for part in (queries, keys, values))
        return torch.cat([sdpa(q, k, v) for q, k, v in zip(*parts, strict=True)], dim=1)


@dataclass(frozen=True)
class Grid:
    """Where a stretch's tokens lie when only the used slots of [B, L] are computed.

    index: [N] positions in the flattened [B·L] of the stretch's used slots, row by row. counts: how many each row has.
    """

    rows: int
    length: int
    index: torch.Tensor
    counts: Sequence[int]

    def spread(self, packed: torch.Tensor) -> torch.Tensor:
        """[1, N, …] → [B, L, …] with zeros in unused slots."""
        flat = packed.new_zeros(self.rows * self.length, *packed.shape[2:])
        return flat.index_copy(0, self.index, packed[0]).view(self.rows, self.length, *packed.shape[2:])

    def gather(self, padded: torch.Tensor) -> torch.Tensor:
        """[B, L, …] → [1, N, …]."""
        return padded.flatten(0, 1).index_select(0, self.index)[None]


@dataclass(frozen=True)
class Chunk:
    """A stretch of text from slot `start` on, which sees the used slots before it and itself causally.

    earlier: additive [B, 1, 1, start], over the slots before it, None where all are used. grid: set when the stretch
    comes as [1, N, …] used slots only.
    """

    start: int
    earlier: torch.Tensor | None
    grid: Grid | None = None

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        if self.grid is not None:
            queries, keys, values = (self.grid.spread(part) for part in (queries, keys, values))
        attend = self._attend_flash if queries.device.type == "cpu" else self._attend_masked
        out = attend(queries, keys, values, cache)
        return out if self.grid is None else self.grid.gather(out)

    def _attend_flash(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        parts = (part.transpose(1, 2) for part in (queries, keys, values))
        out: torch.Tensor = AttendChunk.apply(cache, *parts, self.earlier, self.start)  # pyright: ignore[reportAssignmentType]
        return out.transpose(1, 2).flatten(2)

    def _attend_masked(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        """For GPUs without a kernel for unequal lengths (fp32, or older than Ampere): a mask [B, 1, L, start + L].

        Key heads are repeated, since of PyTorch's kernels that take a mask only the one that holds all scores groups
        heads.
        """
        rows, length, heads = queries.shape[:3]
        group = heads // keys.shape[2]
        every = extend(cache, keys, values, self.start)
        every_key, every_value = (part.repeat_interleave(group, 1) for part in every)
        if not self.start:
            return sdpa(queries.transpose(1, 2), every_key, every_value)
        own = additive(torch.ones(length, length, dtype=torch.bool, device=queries.device).tril(), queries.dtype)
        earlier = own.new_zeros(1) if self.earlier is None else self.earlier
        masks = earlier.expand(rows, 1, length, self.start), own.expand(rows, 1, length, length)
        return sdpa(queries.transpose(1, 2), every_key, every_value, torch.cat(masks, dim=-1))


@dataclass(frozen=True)
class VarlenChunk:
    """As `Chunk`, by a kernel for unequal lengths over the used slots alone.

    seen: [M] positions in the flattened [B·(start + L)] of all used slots so far, row by row; seen_counts: how many
    each row has. A row's own tokens are the last of those it sees, so causality is aligned at the end.
    """

    start: int
    grid: Grid
    seen: torch.Tensor
    seen_counts: Sequence[int]
    kernel: Varlen

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        every = extend(cache, self.grid.spread(keys), self.grid.spread(values), self.start)
        used = [part.transpose(1, 2).flatten(0, 1).index_select(0, self.seen) for part in every]
        return self.kernel(queries[0], used[0], used[1], self.grid.counts, self.seen_counts).flatten(1)[None]


@dataclass(frozen=True)
class Step:
    """One slot of every row, which sees the used slots before it and itself.

    mask: additive fp32 [B·kv heads, 1, start + 1], or None where all slots are used. first: the slot where the run of
    steps that this one belongs to begins.
    """

    start: int
    first: int
    mask: torch.Tensor | None

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
    ) -> torch.Tensor:
        parts = (part.squeeze(1) for part in (queries, keys, values))
        out = AttendStep.apply(cache, *parts, self.mask, self.start, self.first)
        return out.flatten(1)[:, None]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


class Recorder:
    """Remembers what the last layer attended with: queries [R, L, heads, D] and keys [R, L, kv heads, D]."""

    queries: torch.Tensor
    keys: torch.Tensor

    def over(self, attend: Attention) -> Attention:
        """The same attention, remembered."""

        def recorded(
            queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, cache: LayerCache
        ) -> torch.Tensor:
            self.queries, self.keys = queries, keys
            return attend(queries, keys, values, cache)

        return recorded
