"""Rows of a prepared set as micro-batches. A step has the same rows for any number of ranks."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock

import torch

from covt_data.data_errors import DataError
from covt_data.schema import Row
from covt_model.encoding.batch import Batch, collate
from covt_model.encoding.encode import Encoder, Sample
from covt_model.model_errors import ModelError
from covt_sft.batches.row_checks import RowChecks
from covt_sft.batches.row_groups import Entry, Group, group_by_length, group_in_order, group_packed
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftDataSection


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward. With `counted = False` it has weight 0, and only keeps the ranks in step."""

    batch: Batch
    samples: Sequence[Sample]
    counted: bool = True


@dataclass(frozen=True)
class StepRows:
    """This rank's part of a step."""

    micro_batches: list[MicroBatch]
    """As many as on any other rank; those whose rows have the most latent segments come first, so that the k-th ones of
    all ranks are alike in it."""
    skipped: list[int]
    """Indices of rows that are left out, the same on all ranks."""

    def mapped(self, change: Callable[[Batch], Batch]) -> "StepRows":
        """The same rows with `change` applied to each batch."""
        changed = [replace(micro, batch=change(micro.batch)) for micro in self.micro_batches]
        return StepRows(changed, self.skipped)


@dataclass(frozen=True)
class Deal:
    """Which rows of a step this rank computes."""

    groups: list[Group]
    """The rows of each forward."""
    fillers: int
    """Further forwards of `filler` that count for nothing, so that all ranks have equally many."""
    filler: Entry
    """The shortest row of the step."""
    skipped: list[int]
    """Indices of rows that are left out, the same on all ranks."""


UNUSABLE = -1
"""In place of the length of a row that ends the training."""


class SampleSource:
    """Encodes rows when they are first used, and keeps them while there is room. Several threads may use it.

    Args:
        rows: the rows of the set.
        encoder: turns a row into token ids, labels and images.
        section: batching, limits and cache size.
        checks: raises for a row that can't be trained on.
        device: where micro-batches are put.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: Encoder,
        section: SftDataSection,
        checks: RowChecks,
        *,
        device: torch.device,
    ) -> None:
        self.rows = rows
        self.encoder = encoder
        self.section = section
        self.checks = checks
        self.device = device
        self._samples: OrderedDict[int, Sample] = OrderedDict()
        self._room = int(section.sample_cache_gib * 2**30)
        self._keeping = Lock()

    def sample(self, index: int) -> Sample:
        """The encoded row.

        Raises:
            SftError, ModelError, DataError: the row can't be used.
        """
        with self._keeping:
            if index in self._samples:
                self._samples.move_to_end(index)
                return self._samples[index]
        row = self.rows[index]
        self.checks(row)
        return self._keep(index, self.encoder.encode(row))

    def _keep(self, index: int, sample: Sample) -> Sample:
        """Keep an encoded row, unless another thread was faster, and forget the oldest ones that have no room."""
        with self._keeping:
            if index not in self._samples:
                self._samples[index] = sample
                self._room -= sample.nbytes
            while self._room < 0:
                self._room += self._samples.popitem(last=False)[1].nbytes
        return sample

    def usable(self) -> Iterator[Sample]:
        """All rows that can be trained on, in order."""
        return (self.sample(index) for index in range(len(self.rows)) if not self.skips(index))

    def problem(self, index: int) -> str:
        """Why a row can't be trained on; empty for a good row."""
        try:
            self.sample(index)
        except (SftError, ModelError, DataError) as error:
            return str(error)
        return ""

    def skips(self, index: int) -> bool:
        """Whether a row is left out. Raises for a bad row unless `data.on_bad` is `skip`."""
        return self.section.on_bad == "skip" and bool(self.problem(index))

    def length(self, index: int) -> int:
        """Tokens of a row; 0 for a row that is left out, and `UNUSABLE` for one that ends the training."""
        try:
            return len(self.sample(index))
        except (SftError, ModelError, DataError):
            return 0 if self.section.on_bad == "skip" else UNUSABLE

    def deal(self, indices: Sequence[int], lengths: Sequence[int], rank: int, ranks: int) -> Deal:
        """Divide the rows of a step among ranks and forwards, as `data.batching` says.

        Args:
            indices: the rows of the step.
            lengths: what `length` returns for each.
            rank: this rank.
            ranks: number of ranks.

        Raises:
            SftError, ModelError, DataError: a row ends the training, or none of the rows can be used. All ranks raise.
        """
        entries = [Entry(index, length) for index, length in zip(indices, lengths, strict=True)]
        for entry in entries:
            if entry.length == UNUSABLE:
                self.sample(entry.index)
        usable = [entry for entry in entries if entry.length > 0]
        if not usable:
            raise SftError(self.problem(indices[0]), "prepare the set again without such rows; this step has no others")
        groups = [[group for group in of_rank if group] for of_rank in self._groups(usable, ranks)]
        fillers = max(len(of_rank) for of_rank in groups) - len(groups[rank])
        filler = min(usable, key=lambda entry: entry.length)
        return Deal(groups[rank], fillers, filler, [entry.index for entry in entries if not entry.length])

    def build(self, deal: Deal, apply: Callable[..., Iterable[Sample]] = map) -> StepRows:
        """Encode this rank's rows and lay them out, on the host.

        Args:
            deal: which rows.
            apply: how to apply a function to many arguments, such as an executor's `map`.
        """
        groups = [(group, True) for group in deal.groups] + [([deal.filler], False)] * deal.fillers
        samples = iter(apply(self.sample, [entry.index for group, _ in groups for entry in group]))
        micro_batches = [self._micro_batch(list(islice(samples, len(group))), counted) for group, counted in groups]
        micro_batches.sort(key=lambda micro: -micro.batch.max_segments)
        return StepRows(micro_batches, deal.skipped)

    def _groups(self, entries: Group, ranks: int) -> list[list[Group]]:
        micro, budget = self.section.micro_batch, self.section.micro_tokens
        if self.section.batching == "length":
            return group_by_length(entries, ranks, micro, budget)
        if self.section.batching == "packed":
            return group_packed(entries, ranks, micro, budget)
        return group_in_order(entries, ranks, micro)

    def _micro_batch(self, samples: list[Sample], counted: bool) -> MicroBatch:
        is_packed = self.section.batching == "packed"
        batch = collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id, packed=is_packed)
        return MicroBatch(batch, samples, counted)
