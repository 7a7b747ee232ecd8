"""Helper images of `vsp` maps that are sets of cells: a backward breadth-first search, then the descent through it.

Each latent stands for one set, and each set is one local step from the set before. The wave holds the holes, then the
cells from which the goal is exactly 0, 1, 2, ... moves away. The path holds the start, then where the agent is after
1, 2, ... moves and the cell it came from; once on the goal it stays. A thumbnail of 28×28 pixels, one visual token,
shows a set as marks on the ground of the map: the feature of a random vision tower still tells every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from covt_data.data_errors import DataError
from covt_data.images.png_writer import encode_palette_png
from covt_data.schema import Image
from covt_data.tasks.grid import CELL_PIXELS, MOVES, Cell, on_grid, step
from covt_data.tasks.vsp_maps import shortest_plan
from covt_data.tasks.vsp_render import SNOW
from covt_rewards.tasks.vsp_plan import find_cell, walk_plan

Kind = Literal["hole", "wave", "agent", "before"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLORS: dict[Kind, tuple[int, int, int]] = {
    "hole": (0, 0, 160),
    "wave": (170, 0, 0),
    "agent": (0, 110, 0),
    "before": (0, 0, 0),
}
"""Dark, so that a mark is far from the ground."""

SetLatents = Literal["wavefront", "wave", "path"]
"""`wave` and `path` are one latent segment each, `wavefront` is both, the wave first."""
SEGMENTS: dict[SetLatents, tuple[str, ...]] = {"wavefront": ("wave", "path"), "wave": ("wave",), "path": ("path",)}

MARK_PIXELS, MARGIN = 4, 2
LARGEST = (CELL_PIXELS - 2 * MARGIN) // MARK_PIXELS
"""Cells per side that a thumbnail holds: 6."""

PALETTE = np.array([SNOW, *COLORS.values()], np.uint8)


@dataclass(frozen=True)
class CellSet:
    """What one latent stands for: its name in words, and the marked cells with their kind, in reading order."""

    name: str
    marks: tuple[tuple[Cell, Kind], ...]


def goal_distances(rows: Sequence[str]) -> dict[Cell, int]:
    """Return the least number of moves to the goal, for every cell from which it can be reached."""
    distances = {find_cell(rows, "G"): 0}
    front = list(distances)
    while front:
        reached: list[Cell] = []
        for cell in front:
            for move in MOVES:
                target = step(cell, move)
                if target not in distances and on_grid(target, len(rows)) and rows[target[0]][target[1]] != "H":
                    distances[target] = distances[cell] + 1
                    reached.append(target)
        front = reached
    return distances


def wave_sets(rows: Sequence[str], count: int) -> list[CellSet]:
    """Return the holes, then the cells at distance 0 to `count` − 2 from the goal; far sets may be empty."""
    holes = [(r, c) for r, row in enumerate(rows) for c, letter in enumerate(row) if letter == "H"]
    distances = goal_distances(rows)
    sets = [_cell_set("holes", holes, "hole")]
    for moves in range(count - 1):
        name = "the goal" if moves == 0 else f"{_moves(moves)} from the goal"
        sets.append(_cell_set(name, [cell for cell, distance in distances.items() if distance == moves], "wave"))
    return sets


def path_sets(rows: Sequence[str], count: int) -> list[CellSet]:
    """Return the start, then the agent after 1 to `count` − 1 moves of `shortest_plan`, with the cell before."""
    plan = shortest_plan(rows)
    assert plan is not None, "maps have a solution"
    cells = walk_plan(rows, plan).cells
    sets = [_cell_set("the start", cells[:1], "agent")]
    for moves in range(1, count):
        at = min(moves, len(plan))
        before: list[tuple[Cell, Kind]] = [(cells[moves - 1], "before")] if moves <= len(plan) else []
        sets.append(CellSet(f"after {_moves(moves)}", tuple(sorted([(cells[at], "agent"), *before]))))
    return sets


def latent_sets(rows: Sequence[str], latents: SetLatents, count: int) -> list[list[CellSet]]:
    """Return the sets of each latent segment.

    Args:
        rows: the map.
        latents: which segments.
        count: sets per segment.

    Raises:
        DataError: when the map is larger than a thumbnail holds.
    """
    if len(rows) > LARGEST:
        raise DataError(
            f"a {len(rows)}×{len(rows)} map does not fit a thumbnail, which holds {LARGEST}×{LARGEST} cells",
            f"use sizes up to {LARGEST}, or latents=trail",
        )
    make = {"wave": wave_sets, "path": path_sets}
    return [make[name](rows, count) for name in SEGMENTS[latents]]


@lru_cache(maxsize=8192)
def draw_set(marks: tuple[tuple[Cell, Kind], ...]) -> Image:
    """Draw a thumbnail, 28×28 pixels: a square of 4×4 pixels per marked cell on the color of the map's ground."""
    pixels = np.zeros((CELL_PIXELS, CELL_PIXELS), np.uint8)
    for (row, column), kind in marks:
        top, left = MARGIN + MARK_PIXELS * row, MARGIN + MARK_PIXELS * column
        pixels[top : top + MARK_PIXELS, left : left + MARK_PIXELS] = 1 + KINDS.index(kind)
    return Image(bytes=encode_palette_png(pixels, PALETTE))


def _cell_set(name: str, cells: Sequence[Cell], kind: Kind) -> CellSet:
    return CellSet(name, tuple((cell, kind) for cell in sorted(cells)))


def _moves(count: int) -> str:
    return f"{count} move{'s' if count > 1 else ''}"
