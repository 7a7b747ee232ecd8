"""Rows of a prepared set as micro-batches: the same rows a step, in the same order, whatever the number of ranks."""

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

Share = Callable[[torch.Tensor], torch.Tensor]
"""Sum of a tensor over the ranks."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one forward. One that is not `counted` only keeps the ranks' forwards equally many."""

    batch: Batch
    samples: Sequence[Sample]
    counted: bool = True


@dataclass(frozen=True)
class StepRows:
    """This rank's forwards of a step, as many as any other rank has; and the rows left out, the same on all ranks."""

    micro_batches: list[MicroBatch]
    skipped: list[int]


class SampleSource:
    """Encoded rows, encoded when first used and kept while there is room, since small sets are passed over often."""

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
        """The encoded row. Raises for one that can't be used."""
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
        """Why a row can't be trained on, or nothing."""
        try:
            self.sample(index)
        except (SftError, ModelError, DataError) as error:
            return str(error)
        return ""

    def deal(self, indices: Sequence[int], rank: int, ranks: int, share: Share) -> StepRows:
        """Rows shared out as the recipe says (collective: `share` sums over the ranks).

        Raises:
            SftError: none of the rows can be used.
        """
        lengths = torch.zeros(len(indices), dtype=torch.float64)
        for place in range(rank, len(indices), ranks):
            lengths[place] = self._length(indices[place])
        entries = [Entry(index, int(length)) for index, length in zip(indices, share(lengths).tolist(), strict=True)]
        usable = [entry for entry in entries if entry.length]
        if not usable:
            raise SftError(self.problem(indices[0]), "leave such rows out of the set: no row of this step is left")
        groups = [[group for group in mine if group] for mine in self._groups(usable, ranks)]
        turns = max(len(mine) for mine in groups)
        micro_batches = [self._micro_batch(group) for group in groups[rank]]
        filler = min(usable, key=lambda entry: entry.length)
        while len(micro_batches) < turns:
            micro_batches.append(self._micro_batch([filler], counted=False))
        return StepRows(micro_batches, [entry.index for entry in entries if not entry.length])

    def skips(self, index: int) -> bool:
        """Whether a row is left out; raises for a bad one where the recipe doesn't allow that."""
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
