"""Rows' lengths in tokens, estimated without a tokenizer."""

import io

import pytest
from PIL import Image as Pillow

from covt_data.images.pixel_limits import PixelLimits
from covt_data.schema import Image, Row, Step
from covt_data.stream.row_tokens import SAMPLE, TEMPLATE, longest_row, row_tokens

LIMITS = PixelLimits(28 * 28, 16 * 28 * 28)


def picture(width: int, height: int) -> Image:
    buffer = io.BytesIO()
    Pillow.new("RGB", (width, height)).save(buffer, "PNG")
    return Image(bytes=buffer.getvalue())


def row(question: str, *images: Image) -> Row:
    steps = [Step(type="text", text="t" * 30), Step(type="latent", images=[picture(28, 28)])]
    return Row(
        id="1",
        source="s",
        split="train",
        question=question,
        images=list(images),
        answer="a" * 3,
        grader="text",
        steps=steps,
    )


@pytest.mark.parametrize(("size", "visual"), [((56, 56), 4), ((280, 280), 16), ((10, 10), 1)])
def test_images_count_as_the_limits_make_them(size, visual):
    assert row_tokens(row("<image>qq", picture(*size)), LIMITS, prompt=True) == TEMPLATE + 3 + visual + 2


def test_answers_steps_and_latents_count_in_training():
    assert row_tokens(row("q" * 9), LIMITS, latents=8) == TEMPLATE + (9 + 3 + 30) // 3 + 8 + 2


def test_the_longest_of_a_large_set_is_looked_for_in_all_its_parts():
    rows = [row("q" * (3000 if number == 5 * SAMPLE - 5 else 3)) for number in range(5 * SAMPLE)]
    assert longest_row(rows, LIMITS, prompts=True) == TEMPLATE + 1000
