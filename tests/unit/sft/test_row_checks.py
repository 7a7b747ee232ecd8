"""What is wrong with a row is said with its id."""

import io

import pytest
from PIL import Image as PilImage

from covt_data.schema import Image, Row, Step
from covt_sft.batches.row_checks import RowChecks
from covt_sft.sft_errors import SftError


def picture(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    PilImage.new("RGB", (width, height)).save(buffer, "PNG")
    return Image(bytes=buffer.getvalue())


def row(helpers: int, image: Image | None = None) -> Row:
    steps = [Step(type="latent", images=[picture(28, 28)] * helpers), Step(type="text", text="so")]
    return Row(
        id="r1", source="s", split="t", question="<image>?", images=[image or picture(56, 56)], answer="a",
        grader="text", steps=steps,
    )  # fmt: skip


def test_a_good_row_passes():
    RowChecks(56 * 56, 8, selects=True)(row(4))


def test_too_many_pixels():
    with pytest.raises(SftError, match=r"row r1, image 0: 100×50 pixels are more than data\.max_pixels = 4000"):
        RowChecks(4000, 8, selects=True)(row(1, picture(100, 50)))


def test_helper_images_that_do_not_divide_the_latents():
    with pytest.raises(SftError, match="row r1, segment 0: 3 helper images do not divide 8 latents"):
        RowChecks(None, 8, selects=True)(row(3))
    RowChecks(None, 8, selects=False)(row(3))


def test_an_image_that_cannot_be_read():
    with pytest.raises(SftError, match="row r1, image 0 can't be read"):
        RowChecks(10**6, 8, selects=True)(row(1, Image(bytes=b"no picture")))


def test_an_image_too_large_to_open(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SftError, match="row r1, image 0 can't be read: Image size"):
        RowChecks(10**6, 8, selects=True)(row(1))
