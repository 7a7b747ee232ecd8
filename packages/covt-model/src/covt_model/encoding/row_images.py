"""A picture of a row, still encoded: told apart by content, decoded only when its features are not known yet."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch

from covt_model.model_errors import ModelError

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Picture:
    """Encoded bytes and, for a focused helper image, the pixel box (x0, y0, x1, y1) to cut out."""

    data: bytes
    box: Box | None = None

    @cached_property
    def key(self) -> bytes:
        """A 16-byte name of bytes and box: equal for equal pictures."""
        digest = blake2b(self.data, digest_size=16)
        digest.update(repr(self.box).encode())
        return digest.digest()

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, read from the file header or the box."""
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            return y1 - y0, x1 - x0
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(io.BytesIO(self.data)) as picture:
                return picture.height, picture.width
        except (UnidentifiedImageError, OSError) as error:
            raise ModelError(f"a picture can't be read: {error}", "prepare the data again") from error

    def pixels(self) -> torch.Tensor:
        """uint8 [3, H, W], cut to the box."""
        return decode(self.data, self.box)


def decode(data: bytes, box: Box | None = None) -> torch.Tensor:
    """Encoded picture bytes (PNG, JPEG, …) → uint8 [3, H, W] in RGB, cut to pixels [x0, x1) × [y0, y1) of `box`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as opened:
            picture = opened
            if box is not None:
                _check_box(box, *opened.size)
                picture = opened.crop(box)  # before the conversion, which is dearer than the crop
            array = np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ModelError(f"a picture can't be decoded: {error}", "prepare the data again") from error
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def _check_box(box: Box, width: int, height: int) -> None:
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ModelError(f"focus box {list(box)} is not inside the {width}×{height} picture", "prepare the data again")
