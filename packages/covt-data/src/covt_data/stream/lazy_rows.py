"""Rows of prepared sets by index, read on access."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covt_data.data_errors import DataError
from covt_data.images.pixel_limits import PixelLimits, fit_row
from covt_data.schema import Row, parse_row
from covt_data.store.prepared_set import PreparedSet, reading

WINDOW = 8
"""Row groups that are shuffled together, and kept in memory."""


class _Pieces(Sequence[Row]):
    """Rows in several pieces under one index. Piece i ends before index `ends[i]`."""

    ends: list[int]

    @abstractmethod
    def _row(self, number: int, offset: int) -> Row:
        """Row `offset` of piece `number`."""

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self.ends, index % len(self))
        return self._row(number, index % len(self) - self._start(number))

    def _start(self, number: int) -> int:
        return self.ends[number - 1] if number else 0


class LazyRows(_Pieces):
    """The rows of a split, or its first `limit`; the most recently used row groups stay in memory.

    limits: images outside them are resized when a row is read. Several threads may read at once.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        split: str,
        limit: int | None = None,
        *,
        keep: int = WINDOW,
        limits: PixelLimits | None = None,
    ) -> None:
        self.prepared, self.split, self.keep, self.limits = prepared, split, keep, limits
        self.groups: list[tuple[Path, int]] = []
        self.ends: list[int] = []
        for path in prepared.shards(split):
            for group, rows in enumerate(_group_sizes(path)):
                if limit is None or len(self) < limit:
                    self.groups.append((path, group))
                    self.ends.append(min(len(self) + rows, limit or len(self) + rows))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._reading = Lock()

    def _row(self, number: int, offset: int) -> Row:
        with self._reading:
            table = self._group(number)
        (data,) = table.slice(offset, 1).to_pylist()
        row = parse_row(data, str(self.groups[number][0]))
        return fit_row(row, self.limits) if self.limits else row

    def ids(self) -> Iterator[str]:
        """Yield the rows' ids in order, without reading their other columns."""
        left = len(self)
        for path in dict.fromkeys(path for path, _ in self.groups):
            with reading(path), pq.ParquetFile(path) as file:
                names = file.read(columns=["id"])["id"].to_pylist()
            yield from names[:left]
            left -= len(names[:left])

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """[rows] int64: a permutation for this epoch that needs few row groups at a time.

        The row groups are permuted, and then the rows within each window of `keep` consecutive groups.
        """
        random = np.random.default_rng((seed, epoch))
        if len(self.groups) <= self.keep:
            return random.permutation(len(self))
        groups: list[int] = random.permutation(len(self.groups)).tolist()
        starts = [0, *self.ends[:-1]]
        parts: list[np.ndarray] = []
        for at in range(0, len(groups), self.keep):
            window = [np.arange(starts[group], self.ends[group]) for group in groups[at : at + self.keep]]
            parts.append(random.permutation(np.concatenate(window)))
        return np.concatenate(parts)

    def _group(self, number: int) -> pa.Table:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        path, group = self.groups[number]
        with reading(path), pq.ParquetFile(path) as file:
            table = file.read_row_group(group)
        self._cache[number] = table
        if len(self._cache) > self.keep:
            self._cache.popitem(last=False)
        return table


class JoinedRows(_Pieces):
    """The rows of several splits under one index, split after split."""

    def __init__(self, parts: Sequence[LazyRows]) -> None:
        self.parts = list(parts)
        self.ends = list(accumulate(len(part) for part in parts))

    def _row(self, number: int, offset: int) -> Row:
        return self.parts[number][offset]

    def place(self, part: int, offset: int) -> int:
        """The index of a part's row."""
        return self._start(part) + offset


class RowsById(Mapping[str, Row]):
    """Rows by their id. Raises `DataError` when two rows share an id."""

    def __init__(self, rows: JoinedRows) -> None:
        self.rows = rows
        self._index: dict[str, int] = {}
        for part in rows.parts:
            for name in part.ids():
                if name in self._index:
                    raise DataError(
                        f"two rows have the id {name!r}, one of them in {part.prepared.path}",
                        "prepare one of the sets again under other ids, or leave it out",
                    )
                self._index[name] = len(self._index)

    def __getitem__(self, name: str) -> Row:
        return self.rows[self._index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def _group_sizes(path: Path) -> list[int]:
    with reading(path):
        about = pq.read_metadata(path)
    return [about.row_group(group).num_rows for group in range(about.num_row_groups)]
