"""Rows of a prepared set as micro-batches: the same global order of rows whatever the number of ranks."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from covt_data.order import batch_indices
from covt_data.schema import Row
from covt_data.store import PreparedSet
from covt_model.batch import Batch, collate
from covt_model.encode import Encoder, Sample


class SampleSource:
    """Encoded rows of a split, encoded when first used.

    Step t of the training takes `batch_size` rows of a permutation that depends on seed and epoch alone; rank r takes
    every world-size-th of them.
    """

    def __init__(self, path: Path, split: str, limit: int | None, encoder: Encoder, *, seed: int) -> None:
        self.rows: Sequence[Row] = list(PreparedSet(path).rows(split, limit))
        self.encoder = encoder
        self.seed = seed
        self._samples: dict[int, Sample] = {}

    def sample(self, index: int) -> Sample:
        """The encoded row; kept, since small sets are passed over many times."""
        if index not in self._samples:
            self._samples[index] = self.encoder.encode(self.rows[index])
        return self._samples[index]

    def micro_batches(self, step: int, batch_size: int, micro: int, rank: int, ranks: int) -> Iterator[Batch]:
        """This rank's rows of a step, `micro` at a time."""
        mine = batch_indices(len(self.rows), step, batch_size, self.seed)[rank::ranks]
        for start in range(0, len(mine), micro):
            samples = [self.sample(index) for index in mine[start : start + micro]]
            yield collate(samples, pad_id=self.encoder.pad_id, image_pad_id=self.encoder.image_pad_id)
