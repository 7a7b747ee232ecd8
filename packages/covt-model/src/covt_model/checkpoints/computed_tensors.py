"""Weights computed from tensors in files, a piece at a time: a whole matrix is never in memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
class Cast:
    """`weight` in another dtype."""

    weight: Stored
    dtype: torch.dtype

    @property
    def shape(self) -> Sequence[int]:
        return self.weight.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.weight.read(start, stop).to(self.dtype)


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
class RowsChanged(ABC):
    """A stored matrix [n, H] whose rows `ids` are computed from `rows` [len(ids), H]."""

    weight: Stored
    rows: torch.Tensor
    ids: tuple[int, ...]

    @property
    def shape(self) -> Sequence[int]:
        return self.weight.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Elements start … stop−1 of the flattened matrix."""
        columns = self.shape[1]
        part = self.weight.read(start, stop)
        for row, index in zip(self.rows, self.ids, strict=True):
            first, last = max(start, index * columns), min(stop, (index + 1) * columns)
            if first < last:
                old = part[first - start : last - start]
                old.copy_(self.change(old, row[first - index * columns : last - index * columns]))
        return part

    @abstractmethod
    def change(self, old: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """New values of a part of a row, from its stored values and its part of `rows`."""


class RowsAdded(RowsChanged):
    """`rows` are differences, added in fp32."""

    def change(self, old: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return old.float() + given.float()


class RowsReplaced(RowsChanged):
    """`rows` take the place of the stored ones."""

    @property
    def dtype(self) -> torch.dtype:
        return self.rows.dtype

    def change(self, old: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return given
