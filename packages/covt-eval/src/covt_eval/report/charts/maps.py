"""Draw an answer on its map: the path and the cell it names, in pixels of the image.

`trace` answers name a cell ("B3": column letter, row number from 1). `vsp` answers are plans ("R,R,D"), which are
walked by the same rule that grades them, so a cross marks exactly the plans that fail.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, cast

from covt_rewards.reward_errors import RewardError
from covt_rewards.tasks.vsp_plan import Cell, parse_plan, walk_plan

CELL_NAME = re.compile(r"\s*([A-Za-z])\s*(\d{1,2})\s*")


@dataclass(frozen=True)
class Drawing:
    """Shapes in image pixels.

    Attributes:
        path: points of a polyline.
        start, end: its first and last point.
        cell: (x, y, width, height) of an outlined cell.
        cross: where a plan fails.
        remark: says in words what can't be drawn.
    """

    path: str = ""
    start: tuple[float, float] | None = None
    end: tuple[float, float] | None = None
    cell: tuple[float, float, float, float] | None = None
    cross: tuple[float, float] | None = None
    remark: str = ""

    @property
    def line_only(self) -> "Drawing":
        return replace(self, cell=None, end=None)


@dataclass(frozen=True)
class Grid:
    """A square grid of `size` × `size` cells that fills an image of `width` × `height` pixels."""

    size: int
    width: int
    height: int

    def center(self, cell: Cell) -> tuple[float, float]:
        return (cell[1] + 0.5) * self.width / self.size, (cell[0] + 0.5) * self.height / self.size

    def box(self, cell: Cell) -> tuple[float, float, float, float]:
        w, h = self.width / self.size, self.height / self.size
        return cell[1] * w, cell[0] * h, w, h

    def inside(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.size and 0 <= cell[1] < self.size

    def polyline(self, cells: list[Cell]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.center, cells))


def grid_of(meta: dict[str, Any], width: int, height: int) -> Grid | None:
    """The grid a row's metadata describes, or None for rows that aren't maps."""
    size = meta.get("size") or len(plan_map(meta))
    return Grid(size, width, height) if isinstance(size, int) and size > 0 else None


def plan_map(meta: dict[str, Any]) -> list[str]:
    """The rows of a `vsp` map, or [] where the metadata holds none that are square."""
    rows = meta.get("rows")
    if not isinstance(rows, list):
        return []
    lines = cast("list[object]", rows)
    texts = [line for line in lines if isinstance(line, str) and len(line) == len(lines)]
    return texts if len(texts) == len(lines) else []


def draw_truth(meta: dict[str, Any], grid: Grid) -> Drawing:
    """The path in the metadata: the true one of a `trace` row, one of the shortest of a `vsp` row."""
    cells = [cell for cell in true_path(meta) if grid.inside(cell)]
    if not cells:
        return Drawing()
    target = None if plan_map(meta) else grid.box(cells[-1])
    return Drawing(path=grid.polyline(cells), start=grid.center(cells[0]), end=grid.center(cells[-1]), cell=target)


def draw_answer(answer: str | None, meta: dict[str, Any], grid: Grid) -> Drawing:
    """The answer on the map; a `remark` when it names nothing that could be drawn."""
    if not answer:
        return Drawing(remark="no answer found in the text")
    rows = plan_map(meta)
    if rows:
        return draw_plan(answer, rows, grid)
    match = CELL_NAME.fullmatch(answer)
    cell = (int(match.group(2)) - 1, ord(match.group(1).upper()) - ord("A")) if match else None
    if cell is None or not grid.inside(cell):
        return Drawing(remark=f"“{answer[:40]}” names no cell of this map")
    return Drawing(cell=grid.box(cell), end=grid.center(cell))


def draw_plan(plan: str, rows: list[str], grid: Grid) -> Drawing:
    """Walk a plan over the map; where it fails, a cross marks its last cell."""
    moves = parse_plan(plan)
    try:
        walk = walk_plan(rows, moves) if moves else None
    except RewardError:  # the map has no start
        walk = None
    if walk is None:
        return Drawing(remark=f"“{plan[:40]}” is not a plan for this map")
    end = grid.center(walk.end)
    return Drawing(
        path=grid.polyline(list(walk.cells)),
        start=grid.center(walk.cells[0]),
        end=end if walk.success else None,
        cross=None if walk.success else end,
    )


def true_path(meta: dict[str, Any]) -> list[Cell]:
    """The cells of `meta["path"]` from the start, without the repeats after arrival."""
    path = meta.get("path")
    steps = cast("list[object]", path) if isinstance(path, list) else []
    found = [read_cell(cell) for cell in [meta.get("start"), *steps]]
    cells = [cell for cell in found if cell is not None]
    return [cell for index, cell in enumerate(cells) if index == 0 or cell != cells[index - 1]]


def read_cell(value: Any) -> Cell | None:
    """[row, column] as a cell, None for anything else."""
    match value:
        case [int(row), int(column)]:
            return row, column
        case _:
            return None


def hops(meta: dict[str, Any], gold: Any) -> int | None:
    """How many steps a row takes: `hops` where it stands in the metadata, else the path's, else the gold plan's."""
    if isinstance(meta.get("hops"), int):
        return meta["hops"]
    if true_path(meta):
        return len(true_path(meta)) - 1
    if plan_map(meta) and isinstance(gold, str) and (moves := parse_plan(gold)):
        return len(moves)
    return None
