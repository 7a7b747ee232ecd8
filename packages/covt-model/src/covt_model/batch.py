"""Samples of one micro-batch as tensors, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch

from covt_model.encode import IGNORE, Sample, Span
from covt_model.pictures import Picture


@dataclass(frozen=True)
class Batch:
    """B rows of at most T tokens.

    input_ids, labels, attention_mask: int64 [B, T]; position_ids: int64 [3, B, T]. `image_index` [I] and `pad_index`
    [P] are positions in the flattened [B·T] of visual tokens and of latent pads, row by row in order, so that
    features and targets concatenated in sample order fit them. `spans` and `pictures` are per row.
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

    @property
    def supervised(self) -> int:
        """Number of tokens that carry cross-entropy."""
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def max_segments(self) -> int:
        """Largest number of latent segments of a row."""
        return max((len(spans) for spans in self.spans), default=0)

    def to(self, device: torch.device | str) -> Self:
        """A copy with every tensor on `device`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, torch.Tensor)}
        return replace(self, **moved)


def collate(samples: Sequence[Sample], *, pad_id: int, image_pad_id: int, multiple: int = 1) -> Batch:
    """Pad samples on the right to the longest, rounded up to `multiple` tokens. Padding has position 0."""
    rows = len(samples)
    longest = max(len(sample) for sample in samples)
    length = -(-longest // multiple) * multiple
    input_ids = np.full((rows, length), pad_id, dtype=np.int64)
    labels = np.full((rows, length), IGNORE, dtype=np.int64)
    mask = np.zeros((rows, length), dtype=np.int64)
    positions = np.zeros((3, rows, length), dtype=np.int64)
    pads: list[np.ndarray] = []
    for row, sample in enumerate(samples):
        size = len(sample)
        input_ids[row, :size] = sample.input_ids
        labels[row, :size] = sample.labels
        mask[row, :size] = 1
        positions[:, row, :size] = sample.position_ids
        pads += [np.arange(start, end) + row * length for start, end in sample.spans]
    in_prompt = np.arange(length) < np.array([[sample.prompt_length] for sample in samples])
    image_index = np.flatnonzero(((input_ids == image_pad_id) & in_prompt).reshape(-1))
    return Batch(
        row_ids=tuple(sample.row_id for sample in samples),
        input_ids=torch.from_numpy(input_ids),
        labels=torch.from_numpy(labels),
        attention_mask=torch.from_numpy(mask),
        position_ids=torch.from_numpy(positions),
        image_index=torch.from_numpy(image_index),
        pad_index=torch.from_numpy(np.concatenate(pads) if pads else np.zeros(0, dtype=np.int64)),
        spans=tuple(sample.spans for sample in samples),
        pictures=tuple(sample.pictures for sample in samples),
        helpers=tuple(sample.helpers for sample in samples),
        prompt_lengths=tuple(sample.prompt_length for sample in samples),
    )
