"""Picture sizes as Qwen2.5-VL wants them: whole cells of 28 pixels, within limits; and rows fitted to that at load."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import dataclass

from PIL import Image as Pictures

from covt_data.data_errors import DataError
from covt_data.schema import Image, Row, Step

CELL = 28
MAX_ASPECT = 200


@dataclass(frozen=True)
class PixelLimits:
    """Least and most pixels of a picture; the defaults are those of Qwen2.5-VL's processor in `covt_model`."""

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def __post_init__(self) -> None:
        if not CELL * CELL <= self.min_pixels <= self.max_pixels:
            raise DataError(
                f"min_pixels = {self.min_pixels}, max_pixels = {self.max_pixels}",
                f"let {CELL * CELL} ≤ min_pixels ≤ max_pixels",
            )


def limits_of(min_pixels: int | None, max_pixels: int | None) -> PixelLimits | None:
    """The limits of a recipe, where either may be left out; None without both."""
    if min_pixels is None and max_pixels is None:
        return None
    return PixelLimits(min_pixels or CELL * CELL, max_pixels or sys.maxsize)


def fitted_size(width: int, height: int, limits: PixelLimits) -> tuple[int, int]:
    """The (width, height) in whole cells that the model sees a picture in: the rule of Qwen2-VL's `smart_resize`."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise DataError(
            f"a picture of {width}×{height} is too narrow", f"crop it to an aspect ratio below {MAX_ASPECT}"
        )
    fitted = [max(CELL, round(side / CELL) * CELL) for side in (width, height)]
    if fitted[0] * fitted[1] > limits.max_pixels:
        shrink = math.sqrt(width * height / limits.max_pixels)
        fitted = [max(CELL, math.floor(side / shrink / CELL) * CELL) for side in (width, height)]
    elif fitted[0] * fitted[1] < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (width * height))
        fitted = [math.ceil(side * grow / CELL) * CELL for side in (width, height)]
    return fitted[0], fitted[1]


def visual_tokens(width: int, height: int, limits: PixelLimits) -> int:
    """Merged visual tokens of a picture of this size: one a cell."""
    fitted = fitted_size(width, height, limits)
    return fitted[0] * fitted[1] // CELL**2


def picture_size(image: Image) -> tuple[int, int]:
    """(width, height), read from the header."""
    with Pictures.open(io.BytesIO(image.bytes)) as picture:
        return picture.size


def fit_row(row: Row, limits: PixelLimits) -> Row:
    """The row with every picture that is outside the limits resized (bicubic, PNG); focus boxes are scaled along.

    Raises `DataError` with the row's id for a picture that can't be read or is too narrow.
    """
    try:
        images = [_fitted(image, limits) for image in row.images]
        helpers = [[_fitted(image, limits) for image in step.images or []] for step in row.steps]
    except (DataError, OSError, Pictures.DecompressionBombError, Pictures.DecompressionBombWarning) as error:
        raise DataError(
            f"a picture of row {row.id!r} can't be resized: {error}", "prepare the set again without it"
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
    """The picture, and the factors that its width and height were changed by."""
    width, height = picture_size(image)
    if limits.min_pixels <= width * height <= limits.max_pixels:
        return image, (1.0, 1.0)
    size = fitted_size(width, height, limits)
    with Pictures.open(io.BytesIO(image.bytes)) as picture:
        resized = picture.convert("RGB").resize(size, Pictures.Resampling.BICUBIC)
    out = io.BytesIO()
    resized.save(out, "PNG")
    return Image(bytes=out.getvalue(), path=image.path), (size[0] / width, size[1] / height)


def _scaled(box: list[int], scale: tuple[float, float]) -> list[int]:
    return [round(value * scale[number % 2]) for number, value in enumerate(box)]
