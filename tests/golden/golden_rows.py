"""Rows for the pinned results: made here, so that nothing but the encoder and the model can change them."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image as PilImage

from covt_data.schema import Image, Row, Step


def picture(seed: int, cells: int) -> bytes:
    squares = np.random.default_rng(seed).integers(0, 256, (cells * 4, cells * 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PilImage.fromarray(squares.repeat(7, 0).repeat(7, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def golden_row(seed: int, *, segments: int = 1, cells: int = 4, size: int = 8) -> Row:
    """A row with `segments` latent segments of `size` helper images, each focused on one cell."""
    draw = np.random.default_rng(1000 + seed)
    image = Image(bytes=picture(seed, cells))
    steps, focus = [Step(type="text", text="Let me look at the map.")], []
    for number in range(segments):
        corners = draw.integers(0, cells, (size, 2)) * 28
        focus.append([[int(x), int(y), int(x) + 28, int(y) + 28] for x, y in corners])
        steps.append(Step(type="latent", images=[image] * size))
        steps.append(Step(type="text", text=f"So the answer is \\boxed{{{'ABCD'[seed % 4]}{number + 1}}}."))
    return Row(
        id=f"golden-{seed}",
        source="golden",
        split="train",
        question="<image>Where do 3 steps lead? Naïve ½ 数 too.",
        images=[image],
        answer="A1",
        grader="text",
        steps=steps,
        metadata=json.dumps({"focus": focus}),
    )
