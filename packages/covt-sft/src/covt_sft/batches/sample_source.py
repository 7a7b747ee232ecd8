"""Rows of a prepared set as micro-batches. A step has the same rows for any number of ranks."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the ranks (collective)."""


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


class SampleSource:
    """Encodes rows when they are first used, and keeps them while there is room.

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

    def sample(self, index: int) -> Sample:
        """The encoded row.

        Raises:
            SftError, ModelError, DataError: the row can't be used.
        """
        if index in self._samples:
            self._samples.move_to_end(index)
            return self._samples[index]
        row = self.rows[index]
        self.checks(row)
        sample = self._samples[index] = self.encoder.encode(row)
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

    def assign_rows(self, indices: Sequence[int], rank: int, ranks: int, sum_over_ranks: SumOverRanks) -> StepRows:
        """Divide the rows of a step among ranks and forwards, as `data.batching` says (collective).

        Args:
            indices: the rows of the step.
            rank: this rank.
            ranks: number of ranks.
            sum_over_ranks: shares the rows' lengths, of which each rank computes a part.

        Raises:
            SftError: none of the rows can be used.
        """
        lengths = torch.zeros(len(indices), dtype=torch.float64)
        for place in range(rank, len(indices), ranks):
            lengths[place] = self._length(indices[place])
        entries = [
            Entry(index, int(length)) for index, length in zip(indices, sum_over_ranks(lengths).tolist(), strict=True)
        ]
        usable = [entry for entry in entries if entry.length]
        if not usable:
            raise SftError(self.problem(indices[0]), "prepare the set again without such rows; this step has no others")
        groups = [[group for group in of_rank if group] for of_rank in self._groups(usable, ranks)]
        forwards = max(len(of_rank) for of_rank in groups)
        micro_batches = [self._micro_batch(group) for group in groups[rank]]
        filler = min(usable, key=lambda entry: entry.length)
        while len(micro_batches) < forwards:
            micro_batches.append(self._micro_batch([filler], counted=False))
        micro_batches.sort(key=lambda micro: -micro.batch.max_segments)
        return StepRows(micro_batches, [entry.index for entry in entries if not entry.length])

    def skips(self, index: int) -> bool:
        """Whether a row is left out. Raises for a bad row unless `data.on_bad` is `skip`."""
        return self.section.on_bad == "skip" and bool(self.problem(index))

    def _length(self, index: int) -> int:
        return 0 if self.skips(index) else len(self.sample(index))

    def _groups(self, entries: Group, ranks: int) -> list[list[Group]]:
        micro, budget = self.section.micro_batch, self.section.micro_tokens
        if self.section.batching == "length":
            return group_by_length(entries, ranks, micro, budget)
        if self.section.batching == "packed":
            return group_packed(entries, ranks, micro, budget)
        return group_in_order(entries, ranks, micro)

    def _micro_batch(self, group: Group, *, counted: bool = True) -> MicroBatch:
        samples = [self.sample(entry.index) for entry in group]
        is_packed = self.section.batching == "packed"
        batch = collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id, packed=is_packed)
        return MicroBatch(batch.to(self.device), samples, counted)
