"""Image sizes that a vision encoder accepts: whole visual tokens per side, within limits. Resizes rows to fit them."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass

from PIL import Image as PillowImage

from covt_data.data_errors import DataError
from covt_data.schema import Image, Row, Step

TOKEN_SIDE = 28
"""Pixels per side of one merged visual token, unless a model family says otherwise."""

MAX_ASPECT = 200
"""Longer over shorter side."""


@dataclass(frozen=True)
class PixelLimits:
    """Least and greatest number of pixels of an image.

    Attributes:
        min_pixels: images with fewer pixels are enlarged.
        max_pixels: images with more pixels are shrunk.
        token_side: pixels per side of one merged visual token (patch size times merge size of the vision encoder).
    """

    min_pixels: int = 4 * TOKEN_SIDE**2
    max_pixels: int = 1280 * TOKEN_SIDE**2
    token_side: int = TOKEN_SIDE

    def __post_init__(self) -> None:
        least = self.token_side**2
        if not 0 < least <= self.min_pixels <= self.max_pixels:
            raise DataError(
                f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}",
                f"let {least} ≤ min_pixels ≤ max_pixels",
            )

    @property
    def identity(self) -> str:
        """Text that stream fingerprints contain. It names the token side only where it is not the default."""
        side = "" if self.token_side == TOKEN_SIDE else f", token_side={self.token_side}"
        return f"PixelLimits(min_pixels={self.min_pixels}, max_pixels={self.max_pixels}{side})"


def limits_of(min_pixels: int | None, max_pixels: int | None, token_side: int = TOKEN_SIDE) -> PixelLimits | None:
    """Build the limits of a recipe, in which either bound may be missing. Returns None when both are."""
    if min_pixels is None and max_pixels is None:
        return None
    return PixelLimits(min_pixels or token_side**2, max_pixels or sys.maxsize, token_side)


def fitted_size(width: int, height: int, limits: PixelLimits) -> tuple[int, int]:
    """Return the (width, height) at which the model sees an image.

    Both are multiples of `limits.token_side`. The rule is that of `smart_resize` in transformers' image processors.

    Raises:
        DataError: when the aspect ratio exceeds `MAX_ASPECT`.
    """
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(f"an image of {width}×{height} is too narrow", f"crop it to an aspect ratio below {MAX_ASPECT}")
    cell = limits.token_side
    fitted = [max(cell, round(side / cell) * cell) for side in (width, height)]
    if fitted[0] * fitted[1] > limits.max_pixels:
        shrink = math.sqrt(width * height / limits.max_pixels)
        fitted = [max(cell, math.floor(side / shrink / cell) * cell) for side in (width, height)]
    elif fitted[0] * fitted[1] < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (width * height))
        fitted = [math.ceil(side * grow / cell) * cell for side in (width, height)]
    return fitted[0], fitted[1]


def visual_tokens(width: int, height: int, limits: PixelLimits) -> int:
    """Return the number of merged visual tokens of an image of this size."""
    fitted = fitted_size(width, height, limits)
    return fitted[0] * fitted[1] // limits.token_side**2


def image_size(image: Image) -> tuple[int, int]:
    """Return (width, height), read from the header without decoding."""
    with PillowImage.open(io.BytesIO(image.bytes)) as opened:
        return opened.size


def fit_row(row: Row, limits: PixelLimits) -> Row:
    """Resize every image outside the limits (bicubic, stored as PNG) and scale the focus boxes accordingly.

    A row whose images are all within the limits is returned unchanged.

    Raises:
        DataError: naming the row, when an image cannot be read or is too narrow.
    """
    try:
        images = [_fitted(image, limits) for image in row.images]
        helpers = [[_fitted(image, limits) for image in step.images or []] for step in row.steps]
    except (DataError, OSError, PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise DataError(
            f"an image of row {row.id!r} cannot be resized: {error}", "prepare the set again without it"
        ) from error
    if all(scale == (1.0, 1.0) for _, scale in [*images, *(pair for pairs in helpers for pair in pairs)]):
        return row
    steps = [
        step if step.images is None else Step(type="latent", images=[image for image, _ in pairs])
        for step, pairs in zip(row.steps, helpers, strict=True)
    ]
    meta = row.meta
    if "focus" in meta:
        scales = [[scale for _, scale in pairs] for pairs in helpers if pairs]
        meta["focus"] = [
            [_scaled(box, scale) for box, scale in zip(boxes, of_step, strict=True)]
            for boxes, of_step in zip(meta["focus"], scales, strict=True)
        ]
    changes = {"images": [image for image, _ in images], "steps": steps}
    return row.model_copy(update=changes | {"metadata": json.dumps(meta, separators=(",", ":"))})


def _fitted(image: Image, limits: PixelLimits) -> tuple[Image, tuple[float, float]]:
    """Return the image within the limits, and the factors by which its width and height changed."""
    width, height = image_size(image)
    if limits.min_pixels <= width * height <= limits.max_pixels:
        return image, (1.0, 1.0)
    size = fitted_size(width, height, limits)
    with PillowImage.open(io.BytesIO(image.bytes)) as opened:
        resized = opened.convert("RGB").resize(size, PillowImage.Resampling.BICUBIC)
    out = io.BytesIO()
    resized.save(out, "PNG")
    return Image(bytes=out.getvalue(), path=image.path), (size[0] / width, size[1] / height)


def _scaled(box: list[int], scale: tuple[float, float]) -> list[int]:
    return [round(value * scale[number % 2]) for number, value in enumerate(box)]
