"""Samples of one micro-batch as tensors: a row each, padded on the right, or laid end to end in one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch

from covt_model.encoding.encode import IGNORE, Sample, Span
from covt_model.encoding.row_images import Picture


@dataclass(frozen=True)
class Batch:
    """B rows of at most T tokens; when packed, one row of all samples' tokens.

    input_ids, labels, attention_mask: int64 [B, T]; position_ids: int64 [3, B, T], counted within each sample.
    `image_index` [I] and `pad_index` [P] are positions in the flattened [B·T] of visual tokens and of latent pads,
    sample by sample in order, so that features and targets concatenated in sample order fit them. The rest is per
    sample: `spans` and `prompt_lengths` count from its beginning, which is position `starts` of the flattened [B·T].
    A sample's first token carries no label, so that shifted losses never reach across samples.
    """

    row_ids: tuple[str, ...]
    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    image_index: torch.Tensor
    pad_index: torch.Tensor
    spans: tuple[tuple[Span, ...], ...]
    pictures: tuple[tuple[Picture, ...], ...]
    helpers: tuple[tuple[tuple[Picture, ...], ...], ...]
    prompt_lengths: tuple[int, ...]
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    is_packed: bool = False

    @property
    def packed(self) -> tuple[int, ...] | None:
        """Lengths of the samples laid end to end, None where each has a row of its own."""
        return self.lengths if self.is_packed else None

    @property
    def supervised(self) -> int:
        """Number of tokens that carry cross-entropy."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def max_segments(self) -> int:
        """Largest number of latent segments of a row."""
        return max((len(spans) for spans in self.spans), default=0)

    def to(self, device: torch.device | str) -> Self:
        """A copy with every tensor on `device`; from page-locked memory to a GPU this does not wait."""
        to_gpu = torch.device(device).type == "cuda"
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=to_gpu))

    def pin(self) -> Self:
        """A copy with every tensor in page-locked memory."""
        return self._mapped(torch.Tensor.pin_memory)

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **changed)


def collate(
    samples: Sequence[Sample], *, pad_id: int, image_pad_id: int, multiple: int = 1, packed: bool = False
) -> Batch:
    """Pad samples on the right to the longest, rounded up to `multiple` tokens; or lay them end to end.

    Padding has position 0; a packed batch has none (its `multiple` is 1).
    """
    sizes = np.array([len(sample) for sample in samples])
    if packed:
        starts, shape = np.cumsum(sizes) - sizes, (1, int(sizes.sum()))
    else:
        length = -(-int(sizes.max()) // multiple) * multiple
        starts, shape = np.arange(len(samples)) * length, (len(samples), length)
    cells = shape[0] * shape[1]
    input_ids = np.full(cells, pad_id, dtype=np.int64)
    labels = np.full(cells, IGNORE, dtype=np.int64)
    mask = np.zeros(cells, dtype=np.int64)
    positions = np.zeros((3, cells), dtype=np.int64)
    images: list[np.ndarray] = []
    pads: list[np.ndarray] = []
    for start, sample in zip(starts, samples, strict=True):
        place = slice(start, start + len(sample))
        input_ids[place] = sample.input_ids
        labels[place] = sample.labels
        mask[place] = 1
        positions[:, place] = sample.position_ids
        images.append(start + np.flatnonzero(sample.input_ids[: sample.prompt_length] == image_pad_id))
        pads += [start + np.arange(*span) for span in sample.spans]
    labels[starts] = IGNORE
    none = np.zeros(0, dtype=np.int64)
    return Batch(
        row_ids=tuple(sample.row_id for sample in samples),
        input_ids=torch.from_numpy(input_ids.reshape(shape)),
        labels=torch.from_numpy(labels.reshape(shape)),
        attention_mask=torch.from_numpy(mask.reshape(shape)),
        position_ids=torch.from_numpy(positions.reshape(3, *shape)),
        image_index=torch.from_numpy(np.concatenate([none, *images])),
        pad_index=torch.from_numpy(np.concatenate([none, *pads])),
        spans=tuple(sample.spans for sample in samples),
        pictures=tuple(sample.pictures for sample in samples),
        helpers=tuple(sample.helpers for sample in samples),
        prompt_lengths=tuple(sample.prompt_length for sample in samples),
        starts=tuple(starts.tolist()),
        lengths=tuple(sizes.tolist()),
        is_packed=packed,
    )
