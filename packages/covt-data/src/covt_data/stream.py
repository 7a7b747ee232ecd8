"""Rows for training without holding a set in memory: shuffled, mixed, shared among ranks, resumed exactly.

The order is a function of position: row `p` of the stream is the same whatever came before and however many ranks
read it. So the whole state is one number, and a stream resumes anywhere at once.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from covt_data.errors import DataError, DataFileError
from covt_data.pixels import PixelLimits, fit_row
from covt_data.schema import Row, parse_row
from covt_data.store import PreparedSet

WINDOW = 8  # row groups that are shuffled together, and kept in memory
DRAWS = 1024  # draws of a mixture that are made at once


class LazyRows(Sequence[Row]):
    """The rows of a split by index, read when asked for; the row groups used last stay in memory."""

    def __init__(self, prepared: PreparedSet, split: str, keep: int = WINDOW) -> None:
        self.prepared, self.split, self.keep = prepared, split, keep
        self.groups = [
            (path, group, pq_rows)
            for path in prepared.shards(split)
            for group, pq_rows in enumerate(_group_sizes(path))
        ]
        self.ends = list(accumulate(rows for _, _, rows in self.groups))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

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
        index %= len(self)
        number = bisect_right(self.ends, index)
        offset = index - (self.ends[number - 1] if number else 0)
        (data,) = self._group(number).slice(offset, 1).to_pylist()
        return parse_row(data, str(self.groups[number][0]))

    def _group(self, number: int) -> pa.Table:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        path, group, _ = self.groups[number]
        try:
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(group)
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"cannot read {path}: {error}", "prepare the set again with --overwrite") from error
        self._cache[number] = table
        if len(self._cache) > self.keep:
            self._cache.popitem(last=False)
        return table

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """[rows] int64: a permutation for this epoch that needs few row groups at a time.

        The row groups are permuted; the rows of each `keep` groups that follow each other are permuted among them.
        """
        random = np.random.default_rng((seed, epoch))
        groups = random.permutation(len(self.groups))
        starts = np.array([0, *self.ends[:-1]])
        parts: list[np.ndarray] = []
        for at in range(0, len(groups), self.keep):
            window = [np.arange(starts[group], self.ends[group]) for group in groups[at : at + self.keep]]
            parts.append(random.permutation(np.concatenate(window)))
        return np.concatenate(parts)


def _group_sizes(path: Path) -> list[int]:
    try:
        about = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"cannot read {path}: {error}", "prepare the set again with --overwrite") from error
    return [about.row_group(group).num_rows for group in range(about.num_row_groups)]


@dataclass(frozen=True)
class Part:
    """A split that takes part in a mixture, with a weight that is relative to the others'."""

    prepared: PreparedSet
    split: str
    weight: float = 1.0


class RowStream(Iterator[Row]):
    """An endless stream over one split or several, this rank's share of it.

    Position p (from 0) belongs to rank `p % ranks`. With several parts each position draws one of them by weight;
    each part is passed over epoch by epoch, every row once an epoch. `limits` are applied to each row at load.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        shuffle: bool = True,
        limits: PixelLimits | None = None,
    ) -> None:
        if not parts or min(part.weight for part in parts) <= 0:
            raise DataError("a stream needs parts with positive weights", "leave out parts of weight 0")
        if not 0 <= rank < ranks:
            raise DataError(f"rank {rank} of {ranks}", "let 0 ≤ rank < ranks")
        self.parts, self.seed, self.rank, self.ranks = list(parts), seed, rank, ranks
        self.shuffle, self.limits = shuffle, limits
        self.rows = [LazyRows(part.prepared, part.split) for part in parts]
        for part, rows in zip(parts, self.rows, strict=True):
            if not len(rows):
                raise DataError(f"{part.prepared.path} has no rows in {part.split!r}", "choose another split")
        self.position = 0
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._draws: tuple[int, np.ndarray, np.ndarray] | None = None

    def __next__(self) -> Row:
        """This rank's next row."""
        row = self.at(self.position + self.rank)
        self.position += self.ranks
        return row

    def at(self, position: int) -> Row:
        """The row at a position of the whole stream, whatever was read before."""
        number, count = self._drawn(position)
        rows = self.rows[number]
        epoch, offset = divmod(count, len(rows))
        index = int(self._order(number, epoch)[offset]) if self.shuffle else offset
        return fit_row(rows[index], self.limits) if self.limits else rows[index]

    def state(self) -> dict[str, Any]:
        """What `resume` needs; JSON-serialisable, the same on every rank, and valid for any number of ranks."""
        return {"position": self.position, "fingerprint": self.fingerprint}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises `DataError` when it is of other data, weights, seed or order."""
        if state["fingerprint"] != self.fingerprint:
            raise DataError(
                "the saved position is of another stream: the data, their weights, the seed or the order differ",
                "resume with the settings of the run, or start a new one",
            )
        self.position = int(state["position"])

    @property
    def fingerprint(self) -> str:
        """The same for streams that give the same rows."""
        digest = hashlib.sha256(f"{self.seed} {self.shuffle}".encode())
        for part in self.parts:
            files = part.prepared.manifest.files
            hashes = [entry.sha256 for name, entry in files.items() if name.startswith(f"{part.split}/")]
            digest.update(f"{part.split} {part.weight} {hashes}".encode())
        return digest.hexdigest()

    def _order(self, number: int, epoch: int) -> np.ndarray:
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            known = self._orders[number] = epoch, self.rows[number].order(self.seed + number, epoch)
        return known[1]

    def _drawn(self, position: int) -> tuple[int, int]:
        """The part of a position, and how many positions before it are of the same part."""
        if len(self.parts) == 1:
            return 0, position
        block, offset = divmod(position, DRAWS)
        if self._draws is None or self._draws[0] > block:
            self._draws = 0, np.zeros(len(self.parts), np.int64), self._block(0)
        at, before, draws = self._draws
        while at < block:
            before = before + np.bincount(draws, minlength=len(self.parts))
            at += 1
            draws = self._block(at)
        self._draws = at, before, draws
        number = int(draws[offset])
        return number, int(before[number] + np.count_nonzero(draws[:offset] == number))

    def _block(self, block: int) -> np.ndarray:
        weights = np.array([part.weight for part in self.parts])
        random = np.random.default_rng((self.seed, block, len(self.parts)))
        return random.choice(len(self.parts), DRAWS, p=weights / weights.sum())
