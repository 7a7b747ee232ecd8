"""A contact sheet of a prepared set: images, helper images with their focus boxes, question and answer."""

from __future__ import annotations

import io
import textwrap

from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from covt_data.schema import IMAGE_TAG, Image, Row
from covt_data.store.prepared_set import PreparedSet

IMAGE_SIDE, HELPER_SIDE, GAP, TEXT_WIDTH = 168, 112, 10, 300  # pixels
FONT_SIZE = 14
INK, PAPER, FOCUS = (30, 30, 30), (224, 228, 232), (230, 0, 120)


def contact_sheet(prepared: PreparedSet, split: str, n: int = 8) -> bytes:
    """Draw the first `n` rows of a split as PNG, one per line: the question's images, the text, the helper images."""
    rows = list(prepared.rows(split, n))
    helpers = max((sum(len(step.images or []) for step in row.steps) for row in rows), default=0)
    columns = max((len(row.images) for row in rows), default=0)
    width = GAP + columns * (IMAGE_SIDE + GAP) + TEXT_WIDTH + GAP + helpers * (HELPER_SIDE + GAP)
    sheet = PillowImage.new("RGB", (width, GAP + len(rows) * (IMAGE_SIDE + GAP)), PAPER)
    for line, row in enumerate(rows):
        _draw_row(sheet, row, GAP + line * (IMAGE_SIDE + GAP), GAP + columns * (IMAGE_SIDE + GAP))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _draw_row(sheet: PillowImage.Image, row: Row, top: int, text_left: int) -> None:
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(row.images):
        sheet.paste(_fitted(image, IMAGE_SIDE), (GAP + number * (IMAGE_SIDE + GAP), top))
    question = row.question.replace(IMAGE_TAG, " ")
    texts = [row.id, f"answer: {row.answer}", question, *(step.text for step in row.steps if step.text)]
    lines = [line for text in texts for line in textwrap.wrap(text, 44)]
    font = ImageFont.load_default(FONT_SIZE)
    draw.multiline_text((text_left, top), "\n".join(lines[: IMAGE_SIDE // (FONT_SIZE + 5)]), fill=INK, font=font)
    left = text_left + TEXT_WIDTH + GAP
    latent_steps = [step.images for step in row.steps if step.images]
    for images, boxes in zip(latent_steps, row.meta.get("focus", [[]] * len(latent_steps)), strict=True):
        for number, image in enumerate(images):
            sheet.paste(_fitted(image, HELPER_SIDE, boxes[number] if boxes else None), (left, top))
            left += HELPER_SIDE + GAP


def _fitted(image: Image, side: int, box: list[int] | None = None) -> PillowImage.Image:
    """The image within `side`×`side` pixels, enlarged without smoothing, its focus box [x0, y0, x1, y1) marked."""
    with PillowImage.open(io.BytesIO(image.bytes)) as opened:
        shown = opened.convert("RGB")
    scale = side / max(shown.size)
    size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
    fitted = shown.resize(size, PillowImage.Resampling.NEAREST if scale > 1 else PillowImage.Resampling.LANCZOS)
    if box:
        x0, y0, x1, y1 = (round(value * scale) for value in box)
        ImageDraw.Draw(fitted).rectangle((x0, y0, x1 - 1, y1 - 1), outline=FOCUS, width=3)
    return fitted
