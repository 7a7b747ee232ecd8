"""Images of `trace` maps: one tile of 28×28 pixels or more per cell, with the marker drawn as four corners.

The ground has the mean color of the model's image normalization, so it is zero as input. The features are a stripe in
the color of the row (left edge), a stripe in the color of the column (top edge), and the arrow.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from covt_data.images.png_writer import encode_palette_png
from covt_data.tasks.grid import CELL_PIXELS, Cell

GROUND = (123, 117, 104)  # 255 × CLIP's image mean, with which most vision encoders normalize
BLACK = (0, 0, 0)
MARKER = (255, 255, 255)
LINE_COLORS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 90, 220), (245, 130, 48), (145, 30, 180), (70, 240, 240),
    (240, 50, 230),
)  # fmt: skip
"""Color of row i and of column i; at most eight rows."""

GROUND_INDEX, BLACK_INDEX, MARKER_INDEX, LINE_INDEX = 0, 1, 2, 3
PALETTE = np.array([GROUND, BLACK, MARKER, *LINE_COLORS], np.uint8)

STRIPE = 4  # pixels
CORNER = 7  # pixels


def _arrow_right() -> np.ndarray:
    """[28, 28] bool: an arrow to the right, inside the stripes."""
    y, x = np.mgrid[0:CELL_PIXELS, 0:CELL_PIXELS]
    shaft = (abs(y - 15.5) < 2) & (x >= 8) & (x <= 17)
    head = (x >= 15) & (abs(y - 15.5) <= (23 - x))
    return shaft | (head & (x <= 23))


def _tile(row: int, column: int, arrow: str, marked: bool) -> np.ndarray:
    tile = np.full((CELL_PIXELS, CELL_PIXELS), GROUND_INDEX, np.uint8)
    right = _arrow_right()
    shape = {"R": right, "L": right[:, ::-1], "D": right.T, "U": right.T[::-1]}[arrow]
    offset = {"R": (0, 0), "D": (0, 0), "L": (0, 4), "U": (4, 0)}[arrow]  # mirrored about 15.5, the stripes' middle
    tile[np.roll(shape, offset, (0, 1))] = BLACK_INDEX
    tile[:, :STRIPE] = LINE_INDEX + row
    tile[:STRIPE, STRIPE:] = LINE_INDEX + column
    if marked:
        for vertical in (slice(0, CORNER), slice(CELL_PIXELS - CORNER, None)):
            for horizontal in (slice(0, CORNER), slice(CELL_PIXELS - CORNER, None)):
                tile[vertical, horizontal] = MARKER_INDEX
    return tile


@cache
def tile(row: int, column: int, arrow: str, marked: bool, side: int = CELL_PIXELS) -> np.ndarray:
    """[side, side] uint8 palette indices, drawn once; larger tiles repeat rows and columns of the one of 28 pixels."""
    source = np.arange(side) * CELL_PIXELS // side
    drawn = _tile(row, column, arrow, marked)[source][:, source]
    drawn.flags.writeable = False
    return drawn


def draw_map(arrows: list[str], side: int = CELL_PIXELS) -> np.ndarray:
    """[side·size, side·size] uint8 palette indices of the map without a marker."""
    return np.vstack(
        [np.hstack([tile(r, c, arrow, False, side) for c, arrow in enumerate(row)]) for r, row in enumerate(arrows)]
    )


def draw_marked(base: np.ndarray, arrows: list[str], marked: Cell) -> bytes:
    """PNG of the map `base` (as `draw_map` returns it) with the marker on one cell."""
    (row, column), side = marked, len(base) // len(arrows)
    top, left = row * side, column * side
    pixels = base.copy()
    pixels[top : top + side, left : left + side] = tile(row, column, arrows[row][column], True, side)
    return encode_palette_png(pixels, PALETTE)
