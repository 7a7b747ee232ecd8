"""Merged weights of tensors that lie in files, added up a piece at a time: a whole matrix is never in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from covt_model.checkpoints.shard_writer import Stored


def whole(tensor: torch.Tensor | Stored) -> torch.Tensor:
    """The tensor in memory; for small ones."""
    if isinstance(tensor, torch.Tensor):
        return tensor
    return tensor.read(0, math.prod(tensor.shape)).view(*tensor.shape)


@dataclass(frozen=True)
class MergedMatrix:
    """`weight + scale · high · low`. weight: [out, in]; high: [out, rank]; low: [rank, in]."""

    weight: Stored
    high: torch.Tensor
    low: torch.Tensor
    scale: float

    @property
    def shape(self) -> Sequence[int]:
        return self.weight.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        columns = self.shape[1]
        first, last = start // columns, -(-stop // columns)
        change = self.scale * (self.high[first:last].float() @ self.low.float())
        part = self.weight.read(start, stop)
        return (part.float() + change.reshape(-1)[start - first * columns : stop - first * columns]).to(part.dtype)


@dataclass(frozen=True)
class RowsAdded:
    """`weight` with differences added to some rows. weight: [n, H]; rows: [len(ids), H]."""

    weight: Stored
    rows: torch.Tensor
    ids: tuple[int, ...]

    @property
    def shape(self) -> Sequence[int]:
        return self.weight.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        columns = self.shape[1]
        part = self.weight.read(start, stop)
        for row, index in zip(self.rows, self.ids, strict=True):
            first, last = max(start, index * columns), min(stop, (index + 1) * columns)
            if first < last:
                change = row[first - index * columns : last - index * columns].float()
                part[first - start : last - start] = (part[first - start : last - start].float() + change).to(
                    part.dtype
                )
        return part
