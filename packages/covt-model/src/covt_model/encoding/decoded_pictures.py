"""Pictures decoded and cut into patches, which threads may do ahead of the forward that needs them."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from hashlib import blake2b

import torch

from covt_model.encoding.row_images import Picture
from covt_model.families.family import Family
from covt_model.families.image_settings import Grid, ImageSettings

Name = bytes


@dataclass(frozen=True)
class Patches:
    """What the vision tower computes a feature from: a picture, or one cell of it where cells are independent.

    name: tells pixels apart. values: float32 [rows · columns, D]. grid: patch grid.
    """

    name: Name
    values: torch.Tensor
    grid: Grid

    def pin(self) -> Patches:
        """A copy in page-locked memory, from which a GPU copies without waiting."""
        return Patches(self.name, self.values.pin_memory(), self.grid)


DecodedPictures = dict[Name, list[Patches]]
"""The patches of pictures by `Picture.key`: one entry each, or one for each cell in order."""


@dataclass(frozen=True)
class PictureDecoder:
    """Decodes pictures for one vision tower.

    cellwise: whether the tower computes each cell apart from the others.
    """

    family: Family
    settings: ImageSettings
    cellwise: bool

    def __call__(self, picture: Picture) -> list[Patches]:
        """The patches of one picture.

        Raises:
            ModelError: the picture can't be decoded.
        """
        pixels = picture.pixels()[None]
        if self.cellwise:
            pixels = to_cells(self.family.resize(pixels, self.settings)[0], self.settings.cell)
        values, grid = self.family.patchify(pixels, self.settings)
        parts = zip(pixels, values.chunk(len(pixels)), strict=True)
        return [Patches(_name(part), patches, grid) for part, patches in parts]

    def decode(
        self,
        pictures: Iterable[Picture],
        known: Container[Name] = (),
        *,
        apply: Callable[..., Iterable[list[Patches]]] = map,
        pin: bool = False,
    ) -> DecodedPictures:
        """The patches of each distinct picture whose key is not `known`.

        Args:
            pictures: the pictures, in any order.
            known: keys of pictures that need no patches.
            apply: how to apply a function to many arguments, such as an executor's `map`.
            pin: whether to page-lock the patches.
        """
        wanted = {picture.key: picture for picture in pictures if picture.key not in known}
        found = dict(zip(wanted, apply(self, wanted.values()), strict=True))
        return {key: [part.pin() for part in parts] for key, parts in found.items()} if pin else found


def _name(pixels: torch.Tensor) -> Name:
    return repr(pixels.shape).encode() + blake2b(pixels.contiguous().numpy().data, digest_size=16).digest()


def to_cells(picture: torch.Tensor, cell: int) -> torch.Tensor:
    """[3, H, W] of whole cells → [n, 3, cell, cell], row by row, as the visual tokens are ordered."""
    rows, columns = picture.shape[1] // cell, picture.shape[2] // cell
    cells = picture.view(3, rows, cell, columns, cell).permute(1, 3, 0, 2, 4)
    return cells.reshape(rows * columns, 3, cell, cell).contiguous()
