"""Draw an answer on its map: the path and the cell it names, in pixels of the picture.

`trace` answers name a cell ("B3": column letter, row number from 1); `vsp` answers are plans ("R,R,D") that are walked
from the start over the rows of the map. Which answer is right is the evaluation's business, not decided here.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

Cell = tuple[int, int]  # row, column

MOVES: dict[str, Cell] = {"L": (0, -1), "R": (0, 1), "U": (-1, 0), "D": (1, 0)}
CELL_NAME = re.compile(r"\s*([A-Za-z])\s*(\d{1,2})\s*")
PLAN = re.compile(r"\s*[LRUDlrud](?:[\s,;>→-]*[LRUDlrud])*\s*")


@dataclass(frozen=True)
class Drawing:
    """Shapes in picture pixels. `path` is a polyline's points; `cell` (x, y, width, height) is outlined; `cross` is
    where a plan fails. `remark` says in words what can't be drawn."""

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
    """A square grid of `size` × `size` cells that fills a picture of `width` × `height` pixels."""

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
    if not isinstance(rows, list) or any(not isinstance(row, str) or len(row) != len(rows) for row in rows):
        return []
    return rows


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
    """Walk a plan from S until it ends, reaches G, enters a hole, or leaves the map (drawn half a cell outside)."""
    start = next(((r, row.index("S")) for r, row in enumerate(rows) if "S" in row), None)
    if start is None or not PLAN.fullmatch(plan):
        return Drawing(remark=f"“{plan[:40]}” is not a plan for this map")
    cells, cross = [start], None
    for move in re.findall("[LRUD]", plan.upper()):
        step = MOVES[move]
        cell = (cells[-1][0] + step[0], cells[-1][1] + step[1])
        if not grid.inside(cell):
            here, there = grid.center(cells[-1]), grid.center(cell)
            cross = ((here[0] * 0.58 + there[0] * 0.42), (here[1] * 0.58 + there[1] * 0.42))
            break
        cells.append(cell)
        mark = rows[cell[0]][cell[1]]
        if mark == "H":
            cross = grid.center(cell)
        if mark in "HG":
            break
    end = None if cross else grid.center(cells[-1])
    return Drawing(path=grid.polyline(cells), start=grid.center(start), end=end, cross=cross)


def true_path(meta: dict[str, Any]) -> list[Cell]:
    """The cells of `meta["path"]` from the start, without the repeats after arrival."""
    path = meta.get("path")
    found = [read_cell(cell) for cell in [meta.get("start"), *(path if isinstance(path, list) else [])]]
    cells = [cell for cell in found if cell is not None]
    return [cell for index, cell in enumerate(cells) if index == 0 or cell != cells[index - 1]]


def read_cell(value: Any) -> Cell | None:
    """[row, column] as a cell, None for anything else."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return value[0], value[1]
    return None


def hops(meta: dict[str, Any], gold: Any) -> int | None:
    """How many steps a row takes: `hops` where it stands in the metadata, else the path's, else the gold plan's."""
    if isinstance(meta.get("hops"), int):
        return meta["hops"]
    if true_path(meta):
        return len(true_path(meta)) - 1
    if plan_map(meta) and isinstance(gold, str) and PLAN.fullmatch(gold):
        return len(re.findall("[LRUD]", gold.upper()))
    return None
