"""DeepStack: visual features of several levels that enter the first decoder layers (arXiv 2406.04334)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch


@dataclass(frozen=True)
class Deepstack:
    """What is added to the hidden states of a batch [B, T, H] after each of its first L decoder layers.

    index: [N] positions of the visual tokens in the flattened [B·T], ascending. levels: [L, N, H]. A latent is no
    visual token, so nothing is added to it.
    """

    index: torch.Tensor
    levels: torch.Tensor

    @classmethod
    def of(cls, features: Sequence[torch.Tensor], index: torch.Tensor, hidden: int) -> Self | None:
        """From features [n_i, W] (`Family.visual_features`) of the N visual tokens; None where they have one level."""
        if not features or features[0].shape[1] == hidden:
            return None
        levels = torch.cat([one[:, hidden:] for one in features]).unflatten(1, (-1, hidden))
        return cls(index, levels.transpose(0, 1))

    def moved(self, place: torch.Tensor) -> Self:
        """With each position p in another order of the tokens: `place[p]`."""
        return type(self)(place[self.index], self.levels)

    def add(self, hidden: torch.Tensor, layer: int) -> torch.Tensor:
        """Hidden states [B, T, H] after decoder layer number `layer` with what that layer's output gets."""
        if layer >= len(self.levels):
            return hidden
        return hidden.flatten(0, 1).index_add(0, self.index, self.levels[layer].to(hidden.dtype)).view_as(hidden)
