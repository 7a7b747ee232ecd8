"""The length of rows in tokens, estimated without a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from covt_data.images.pixel_limits import PixelLimits, image_size, visual_tokens
from covt_data.schema import Row

CHARACTERS = 3
"""Characters per token, on the low side for English."""
TEMPLATE = 48
"""Tokens of a chat template and a system prompt."""
SAMPLE = 64


def longest_row(rows: Sequence[Row], limits: PixelLimits, *, latents: int = 0, prompts: bool = False) -> int:
    """Estimate the length of the longest of some rows: the first of as many equal parts of the set.

    Args:
        rows: the rows of a set, read when they are indexed.
        limits: of images.
        latents: latent tokens per segment.
        prompts: count the prompt only.
    """
    step = max(1, len(rows) // SAMPLE)
    return max(row_tokens(rows[n], limits, latents=latents, prompt=prompts) for n in range(0, len(rows), step))


def row_tokens(row: Row, limits: PixelLimits, *, latents: int = 0, prompt: bool = False) -> int:
    """Estimate one row's tokens; see `longest_row`."""
    texts = [row.question, *row.options]
    pads = 0
    if not prompt:
        texts += [row.answer, *(step.text or "" for step in row.steps)]
        pads = sum(latents + 2 for step in row.steps if step.type == "latent")
    visual = sum(visual_tokens(*image_size(image), limits) + 2 for image in row.images)
    return TEMPLATE + sum(map(len, texts)) // CHARACTERS + visual + pads
