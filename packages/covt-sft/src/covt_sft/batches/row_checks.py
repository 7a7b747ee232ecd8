"""What a row must have to be trained on, beyond what its encoding demands."""

import io

from PIL import Image as PilImage

from covt_data.schema import Row
from covt_sft.sft_errors import SftError


class RowChecks:
    """Pictures within the recipe's limit, and helper images that divide a segment's latents."""

    def __init__(self, max_pixels: int | None, size: int, *, selects: bool) -> None:
        self.max_pixels = max_pixels
        self.size = size
        self.selects = selects

    def __call__(self, row: Row) -> None:
        """Raise SftError with the row's id for the first thing wrong."""
        pictures = [*row.images, *(image for step in row.steps for image in step.images or ())]
        for number, picture in enumerate(pictures):
            self._check_pixels(row.id, number, picture.bytes)
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
                f"row {row_id}, picture {number}: {width}×{height} pixels are more than data.max_pixels = "
                f"{self.max_pixels}",
                "raise data.max_pixels, resize with data.oversize=resize, or leave such rows out with data.on_bad=skip",
            )


def _size(row_id: str, number: int, data: bytes) -> tuple[int, int]:
    """(width, height) from the file's header."""
    try:
        with PilImage.open(io.BytesIO(data)) as picture:
            return picture.size
    except (OSError, PilImage.DecompressionBombError, PilImage.DecompressionBombWarning) as error:
        raise SftError(
            f"row {row_id}, picture {number} can't be read: {error}", "prepare the data again without it"
        ) from error
