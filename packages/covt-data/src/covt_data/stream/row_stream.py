"""Rows for training without holding a set in memory: shuffled, mixed, divided among ranks, and exactly resumable.

The order is a function of position: row `p` of the stream does not depend on what was read before or on the
number of ranks. The whole state is therefore one number, and resuming is immediate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from covt_data.data_errors import DataError
from covt_data.images.pixel_limits import PixelLimits
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet
from covt_data.stream.lazy_rows import JoinedRows, LazyRows

DRAWS = 1024  # draws of a mixture per block


@dataclass(frozen=True)
class Part:
    """A split in a mixture, with a weight relative to the other parts."""

    prepared: PreparedSet
    split: str
    weight: float = 1.0
    limit: int | None = None
    """Only the first rows."""


def mixture(
    path: Path | str, split: str, limit: int | None, others: Iterable[tuple[Path | str, str, float]]
) -> list[Part]:
    """Return a split's first rows with weight 1, and other splits given as (path, split, weight)."""
    first = Part(PreparedSet(path), split, limit=limit)
    return [first, *(Part(PreparedSet(folder), name, weight) for folder, name, weight in others)]


class RowStream(Iterator[Row]):
    """An endless stream of this rank's rows of one or more splits.

    Position p (from 0) belongs to rank `p % ranks`. With several parts each position draws one of them by weight;
    each part is read epoch by epoch, every row once per epoch. `limits` apply to each row when it is read.
    A training that assigns rows to ranks itself calls `index` to learn which of `rows` is at a position.
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
        self.rows = JoinedRows([LazyRows(part.prepared, part.split, part.limit, limits=limits) for part in parts])
        for part, rows in zip(parts, self.rows.parts, strict=True):
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
        """Return the row at a position of the whole stream, independent of what was read before."""
        return self.rows[self.index(position)]

    def index(self, position: int) -> int:
        """Return the index into `rows` of a position of the whole stream."""
        number, count = self._drawn(position)
        epoch, offset = divmod(count, len(self.rows.parts[number]))
        return self.rows.place(number, int(self._order(number, epoch)[offset]) if self.shuffle else offset)

    def repeated(self, count: int) -> int:
        """How many of the first `count` positions have a row that an earlier position had."""
        return sum(max(0, drawn - len(rows)) for drawn, rows in zip(self._shares(count), self.rows.parts, strict=True))

    def state(self) -> dict[str, Any]:
        """What `resume` needs; JSON-serializable, the same on every rank, and valid for any number of ranks."""
        return {"position": self.position, "fingerprint": self.fingerprint}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            DataError: when data, weights, limits, seed or order differ.
        """
        if state["fingerprint"] != self.fingerprint:
            raise DataError(
                "the saved position is of another stream: data, weights, limits, seed or order differ",
                "resume with the data and the seed of the run, or start a new one",
            )
        self.position = int(state["position"])

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for streams of the same rows."""
        digest = hashlib.sha256(f"{self.seed} {self.shuffle}".encode())
        for part in self.parts:
            files = part.prepared.manifest.files
            hashes = [entry.sha256 for name, entry in files.items() if name.startswith(f"{part.split}/")]
            digest.update(f"{part.split} {part.weight} {part.limit} {hashes}".encode())
        if self.limits is not None:
            digest.update(self.limits.identity.encode())
        return digest.hexdigest()

    def _order(self, number: int, epoch: int) -> np.ndarray:
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            known = self._orders[number] = epoch, self.rows.parts[number].order(self.seed + number, epoch)
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

    def _shares(self, count: int) -> list[int]:
        """How many of the first `count` positions are of each part."""
        if len(self.parts) == 1:
            return [count]
        blocks, rest = divmod(count, DRAWS)
        draws = np.concatenate([*(self._block(block) for block in range(blocks)), self._block(blocks)[:rest]])
        return np.bincount(draws, minlength=len(self.parts)).tolist()

    def _block(self, block: int) -> np.ndarray:
        weights = np.array([part.weight for part in self.parts])
        random = np.random.default_rng((self.seed, block, len(self.parts)))
        return random.choice(len(self.parts), DRAWS, p=weights / weights.sum())
