"""Images of `vsp` maps: ice, holes, a gift as the goal, an elf as the agent, 28×28 pixels per cell.

The published maps use gymnasium's FrozenLake sprites. These original drawings show the same things in about the same
colors and places, so a model trained on them can read the published images at this size. Each map is drawn in one of
`LOOKS` variants (shift, scale, tint, ice pattern), so that a model cannot memorize one exact tile.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from covt_data.images.png_writer import encode_palette_png
from covt_data.tasks.grid import CELL_PIXELS, MOVES, Cell

LOOKS = 24
SUPERSAMPLING = 8
TRAIL_COLOR = (200, 30, 160)
TRAIL_HALF_WIDTH = 2  # pixels
COLORS_PER_LOOK = 255  # and one for the trail

Color = tuple[int, int, int]
Shape = tuple[str, tuple[float, ...], Color]
"""Kind ("ellipse", "box" or "polygon"), coordinates in pixels of the tile, color."""

EDGE, SNOW, STREAK = (203, 222, 245), (247, 251, 254), (214, 233, 252)

HOLE: list[Shape] = [
    ("ellipse", (1.8, 2.8, 26.6, 26.0), (40, 145, 225)),
    ("ellipse", (2.6, 5.6, 26.0, 26.0), (78, 212, 246)),
    ("polygon", (8, 17, 17, 9.5, 18, 10.5, 9, 18), (150, 240, 252)),
    ("polygon", (12, 20, 21, 12.5, 22, 13.5, 13, 21), (150, 240, 252)),
    ("polygon", (6, 12.5, 11, 8.5, 11.6, 9.3, 6.8, 13.2), (150, 240, 252)),
]
GIFT: list[Shape] = [
    ("box", (6.2, 6.8, 22.2, 24.0), (58, 68, 96)),
    ("box", (7.4, 9.4, 21.0, 15.6), (92, 160, 178)),
    ("box", (7.0, 16.6, 21.4, 23.0), (70, 84, 118)),
    ("box", (7.0, 18.8, 21.4, 20.8), (200, 112, 48)),
    ("box", (12.8, 9.6, 15.6, 23.0), (206, 112, 42)),
    ("ellipse", (6.8, 6.0, 13.6, 12.2), (222, 140, 46)),
    ("ellipse", (14.8, 6.0, 21.6, 12.2), (222, 140, 46)),
    ("ellipse", (8.8, 7.8, 12.0, 10.6), (170, 84, 34)),
    ("ellipse", (16.4, 7.8, 19.6, 10.6), (170, 84, 34)),
    ("polygon", (13.6, 10.6, 9.2, 15.8, 11.6, 15.8, 14.4, 11.6), (226, 148, 50)),
    ("polygon", (14.8, 10.6, 19.2, 15.8, 16.8, 15.8, 14.0, 11.6), (226, 148, 50)),
]
ELF: list[Shape] = [
    ("polygon", (14.1, 5.8, 10.2, 11.2, 18.0, 11.2), (76, 142, 62)),
    ("box", (9.6, 10.6, 18.6, 12.4), (176, 58, 48)),
    ("polygon", (8.4, 12.0, 19.8, 12.0, 18.4, 15.2, 9.8, 15.2), (206, 126, 92)),
    ("ellipse", (10.6, 11.6, 17.6, 17.4), (226, 160, 136)),
    ("box", (11.6, 13.4, 12.6, 15.4), (80, 44, 44)),
    ("box", (15.6, 13.4, 16.6, 15.4), (80, 44, 44)),
    ("box", (10.6, 16.6, 17.6, 20.2), (146, 62, 56)),
    ("box", (11.8, 17.0, 16.4, 18.4), (168, 164, 66)),
    ("box", (10.8, 20.0, 13.2, 21.4), (130, 70, 70)),
    ("box", (15.0, 20.0, 17.4, 21.4), (130, 70, 70)),
]


@dataclass(frozen=True)
class Look:
    """One variant of the drawing.

    `tiles` maps `F`, `H` and `G` to [28, 28] uint8 indices into `palette` [256, 3]; `elf` is drawn where
    `elf_mask` is set.
    """

    tiles: dict[str, np.ndarray]
    elf: np.ndarray
    elf_mask: np.ndarray
    palette: np.ndarray


def _draw(
    shapes: Sequence[Shape], shift: tuple[float, float], scale: float, ground: PillowImage.Image
) -> PillowImage.Image:
    """The shapes, scaled about the middle of the tile and shifted (in pixels), on a copy of `ground`."""
    image = ground.copy()
    draw = ImageDraw.Draw(image)
    middle = CELL_PIXELS / 2
    for kind, coordinates, color in shapes:
        placed = [
            (middle + (value - middle) * scale + shift[axis % 2]) * SUPERSAMPLING
            for axis, value in enumerate(coordinates)
        ]
        {"ellipse": draw.ellipse, "box": draw.rectangle, "polygon": draw.polygon}[kind](placed, fill=color)
    return image


def _ice(random_: random.Random) -> PillowImage.Image:
    """Snow with pale streaks and a thin edge, at the supersampled size."""
    size = CELL_PIXELS * SUPERSAMPLING
    image = PillowImage.new("RGB", (size, size), SNOW)
    streaks: list[Shape] = []
    for _ in range(8):
        x, y, length = random_.uniform(0, 22), random_.uniform(2, 26), random_.uniform(5, 11)
        streaks.append(("polygon", (x, y, x + length, y + 2.0, x + length, y + 4.0, x + length / 2, y + 3.4), STREAK))
    image = _draw(streaks, (0, 0), 1.0, image)
    edge: list[Shape] = [
        ("box", (0, 0, 28, 0.9), EDGE), ("box", (0, 0, 0.9, 28), EDGE),
        ("box", (27.4, 0, 28, 28), EDGE), ("box", (0, 27.6, 28, 28), EDGE),
    ]  # fmt: skip
    return _draw(edge, (0, 0), 1.0, image)


def _small(image: PillowImage.Image, gain: np.ndarray) -> np.ndarray:
    """[28, 28, 3] uint8: the image averaged down to the tile's size, its channels multiplied by `gain` [3]."""
    pixels = np.asarray(image.resize((CELL_PIXELS, CELL_PIXELS), PillowImage.Resampling.BOX), np.float64)
    return np.clip(np.rint(pixels * gain), 0, 255).astype(np.uint8)


@cache
def look(number: int) -> Look:
    """Return variant `number`; 0 is the plain drawing."""
    random_ = random.Random(f"vsp-look-{number}")
    vary = 0.0 if number == 0 else 1.0
    shift = (vary * random_.uniform(-0.8, 0.8), vary * random_.uniform(-0.8, 0.8))
    scale = 1 + vary * random_.uniform(-0.08, 0.08)
    gain = np.array([1 + vary * random_.uniform(-0.06, 0.03) for _ in range(3)])
    ice = _ice(random_)
    drawn = {"F": ice, "H": _draw(HOLE, shift, scale, ice), "G": _draw(GIFT, shift, scale, ice)}
    drawn["A"] = _draw(ELF, shift, scale, ice)
    blank = PillowImage.new("RGB", ice.size, (0, 0, 0))
    covered = _small(_draw([(kind, xy, (255, 255, 255)) for kind, xy, _ in ELF], shift, scale, blank), np.ones(3))
    atlas = PillowImage.fromarray(np.hstack([_small(image, gain) for image in drawn.values()]))
    indexed = atlas.quantize(COLORS_PER_LOOK, PillowImage.Quantize.MEDIANCUT, dither=PillowImage.Dither.NONE)
    colors = np.array(indexed.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.zeros((COLORS_PER_LOOK + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    palette[COLORS_PER_LOOK] = TRAIL_COLOR
    tiles = dict(zip(drawn, np.hsplit(np.asarray(indexed), len(drawn)), strict=True))
    return Look(tiles, tiles.pop("A"), covered[:, :, 0] > 127, palette)


@cache
def _trail(move: str) -> tuple[slice, slice]:
    """Rows and columns of the tile that a trail covers from its middle to the edge that `move` crosses."""
    middle, half = CELL_PIXELS // 2, TRAIL_HALF_WIDTH
    across = slice(middle - half, middle + half)
    along = slice(middle, CELL_PIXELS) if sum(MOVES[move]) > 0 else slice(0, middle)
    return (along, across) if MOVES[move][0] else (across, along)


BACK = {"U": "D", "D": "U", "L": "R", "R": "L"}


def draw_vsp(rows: Sequence[str], path: Sequence[Cell], moves: Sequence[str], number: int = 0) -> bytes:
    """Draw a map as PNG, with the agent at the end of `path` and a line along its path.

    Without moves this is the image of the question. The line enters the agent's cell from the side it came from, so
    this cell alone shows the last move.

    Args:
        rows: the map.
        path: the cells visited so far, one more than `moves`.
        moves: letters of `U D L R`.
        number: the variant, see `look`.
    """
    style = look(number)
    pixels = np.vstack([np.hstack([style.tiles[letter.replace("S", "F")] for letter in row]) for row in rows])

    def tile(cell: Cell) -> np.ndarray:
        top, left = cell[0] * CELL_PIXELS, cell[1] * CELL_PIXELS
        return pixels[top : top + CELL_PIXELS, left : left + CELL_PIXELS]

    for index, move in enumerate(moves):
        tile(path[index])[_trail(move)] = COLORS_PER_LOOK
        tile(path[index + 1])[_trail(BACK[move])] = COLORS_PER_LOOK
    agent = tile(path[-1])
    agent[style.elf_mask] = style.elf[style.elf_mask]
    return encode_palette_png(pixels, style.palette)
