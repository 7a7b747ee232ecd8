"""Checks of a row before it is trained on, beyond those of its encoding."""

import io

from PIL import Image as PilImage

from covt_data.schema import Row
from covt_sft.sft_errors import SftError


class RowChecks:
    """Checks image sizes, and that helper images divide the latents of a segment.

    Args:
        max_pixels: most pixels of an image; None sets no limit.
        size: latents per segment.
        selects: whether stage 1 selects targets from helper images.
    """

    def __init__(self, max_pixels: int | None, size: int, *, selects: bool) -> None:
        self.max_pixels = max_pixels
        self.size = size
        self.selects = selects

    def __call__(self, row: Row) -> None:
        """Check a row.

        Raises:
            SftError: the first problem, with the row's id.
        """
        images = [*row.images, *(image for step in row.steps for image in step.images or ())]
        for number, image_file in enumerate(images):
            self._check_pixels(row.id, number, image_file.bytes)
        if not self.selects:
            return
        for number, step in enumerate(step for step in row.steps if step.type == "latent"):
            helpers = len(step.images or ())
            if not helpers or self.size % helpers:
                raise SftError(
                    f"row {row.id}, segment {number}: {helpers} helper images do not divide {self.size} latents",
                    "set latent.size to a multiple, or prepare the data with another number of helper images",
                )

    def _check_pixels(self, row_id: str, number: int, data: bytes) -> None:
        if self.max_pixels is None:
            return
        width, height = _size(row_id, number, data)
        if width * height > self.max_pixels:
            raise SftError(
                f"row {row_id}, image {number}: {width}×{height} pixels are more than data.max_pixels = "
                f"{self.max_pixels}",
                "raise data.max_pixels, resize with data.oversize=resize, or leave such rows out with data.on_bad=skip",
            )


def _size(row_id: str, number: int, data: bytes) -> tuple[int, int]:
    """(width, height) of an image, from the file's header."""
    try:
        with PilImage.open(io.BytesIO(data)) as image:
            return image.size
    except (OSError, PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise SftError(
            f"row {row_id}, image {number} can't be read: {error}", "prepare the data again without it"
        ) from error
