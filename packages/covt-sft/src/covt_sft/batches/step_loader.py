"""The rows of steps, read, encoded, decoded and pinned by threads while the step before is computed.

The rows of step n depend on n alone, so what step n + 1 needs is known when step n begins. Each rank encodes a part of
the rows of step n + 1 for their lengths; the lengths are shared when step n is dealt, and then each rank prepares its
own micro-batches of step n + 1. Only the sharing is collective, and it happens on the training's own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from covt_model.encoding.decoded_pictures import DecodedPictures
from covt_model.encoding.vision_features import VisionFeatures
from covt_sft.batches.sample_source import SampleSource, StepRows

RowsOfStep = Callable[[int], Sequence[int]]
"""Number of a step, from 0 → indices of its rows."""
SumOverRanks = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the ranks (collective)."""


@dataclass(frozen=True)
class Prepared:
    """A step's rows on the host, with the pictures that were decoded for it."""

    rows: StepRows
    decoded: DecodedPictures


class StepLoader:
    """Deals the rows of one step after another. Use it as a context manager.

    Args:
        source: encodes rows.
        features: the vision tower's features; pictures that it doesn't keep are decoded ahead.
        rows_of_step: which rows a step has.
        rank: this rank.
        ranks: number of ranks.
        sum_over_ranks: shares the rows' lengths, of which each rank computes a part.
        threads: threads that prepare rows; 0 prepares them when they are asked for.
    """

    def __init__(
        self,
        source: SampleSource,
        features: VisionFeatures,
        rows_of_step: RowsOfStep,
        rank: int,
        ranks: int,
        sum_over_ranks: SumOverRanks,
        *,
        threads: int,
    ) -> None:
        self.source, self.features, self.rows_of_step = source, features, rows_of_step
        self.rank, self.ranks, self.sum_over_ranks = rank, ranks, sum_over_ranks
        self.helpers = True
        """Whether helper images are decoded ahead too."""
        self._pin = source.device.type == "cuda"
        # Rows are prepared by several threads, for one that waits for them and puts them together.
        self._pool = ThreadPoolExecutor(threads, "rows") if threads else None
        self._assembler = ThreadPoolExecutor(1, "steps") if threads else None
        self._lengths: tuple[int, Future[torch.Tensor]] | None = None
        self._prepared: tuple[int, Future[Prepared]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for executor in (self._assembler, self._pool):
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def deal(self, number: int) -> StepRows:
        """This rank's rows of a step, on the training device (collective).

        Raises:
            SftError, ModelError, DataError: a row of the step ends the training, or none can be used.
        """
        if self._assembler is None:
            prepared = self._assemble(number, self.sum_over_ranks(self._own_lengths(number)))
        else:
            if self._prepared is None or self._prepared[0] != number:
                self._begin(number, self._assembler)
            assert self._prepared is not None
            prepared = self._prepared[1].result()
            self._begin(number + 1, self._assembler)
        self.features.begin_step(prepared.decoded)
        return prepared.rows.mapped(lambda batch: batch.to(self.source.device))

    def _begin(self, number: int, assembler: ThreadPoolExecutor) -> None:
        """Share the lengths of a step's rows and begin to prepare it, and to encode for the lengths of the next."""
        known = self._lengths[1].result() if self._lengths and self._lengths[0] == number else self._own_lengths(number)
        shared = self.sum_over_ranks(known)
        self._prepared = number, assembler.submit(self._assemble, number, shared)
        self._lengths = number + 1, assembler.submit(self._own_lengths, number + 1)

    def _own_lengths(self, number: int) -> torch.Tensor:
        """float64 [rows of the step]: the lengths of those rows that this rank encodes, 0 for the others."""
        indices = self.rows_of_step(number)
        lengths = torch.zeros(len(indices), dtype=torch.float64)
        places = range(self.rank, len(indices), self.ranks)
        for place, length in zip(places, self._map(self.source.length, [indices[p] for p in places]), strict=True):
            lengths[place] = length
        return lengths

    def _assemble(self, number: int, lengths: torch.Tensor) -> Prepared:
        """This rank's micro-batches of a step, and the pictures that its forwards will ask for."""
        dealt = self.source.deal(self.rows_of_step(number), lengths.int().tolist(), self.rank, self.ranks)
        rows = self.source.build(dealt, self._map)
        pictures = [image for micro in rows.micro_batches for row in micro.batch.pictures for image in row]
        if self.helpers:
            pictures += [i for m in rows.micro_batches for row in m.batch.helpers for segment in row for i in segment]
        decoded = self.features.decoder.decode(pictures, self.features.known, apply=self._map, pin=self._pin)
        return Prepared(rows.mapped(lambda batch: batch.pin()) if self._pin else rows, decoded)

    def _map(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        """Apply a function in the pool's threads, or in this one where there are none."""
        return list((self._pool.map if self._pool else map)(function, arguments))
