"""The `vsp` task: FrozenLake path planning, after Visual Spatial Planning (VSP).

A map is rows of `S` (start), `G` (goal), `H` (hole) and `F` (ice). The answer is a shortest plan such as `R,R,D`.
A plan succeeds when its moves stay on the map, never enter a hole, and reach the goal. The two public judges differ
on a plan that passes over the goal and goes on (gymnasium's environment ends there, Mirage wants the plan to end on
the goal): `stop_at_goal=True`, the default, is gymnasium's rule.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from covt_data.data_errors import DataError
from covt_data.tasks.grid import MOVES, Cell, on_grid, step, symmetries

RESERVED_FILE = "vsp_reserved.txt"
MAX_REJECTED = 20_000  # draws in a row that broke a condition or were taken: no such map, or hardly any


@dataclass(frozen=True)
class VspConditions:
    """What generated maps must be.

    `hole_density` is the chance of a hole on each cell that is neither start nor goal; `min_path` the least length
    of a shortest plan; `detour_share` the share of maps on which the Manhattan path fails (None: as it comes).
    """

    sizes: tuple[int, ...]
    hole_density: float
    min_path: int
    detour_share: float | None


def locate(rows: Sequence[str], letter: str) -> Cell:
    """The first cell with that letter; the map has one `S` and one `G`."""
    for row, cells in enumerate(rows):
        if letter in cells:
            return row, cells.index(letter)
    raise ValueError(f"the map {list(rows)} has no {letter}")


def split_plan(plan: str | Sequence[str]) -> list[str]:
    """The moves of `R,R,D`, or of a sequence of moves; what isn't a move is kept, and fails in the simulation."""
    parts = plan.split(",") if isinstance(plan, str) else plan
    return [part.strip() for part in parts if part.strip()]


def simulate(rows: Sequence[str], plan: str | Sequence[str], stop_at_goal: bool = True) -> bool:
    """Whether the plan leads from start to goal; with `stop_at_goal` the moves after reaching it don't count."""
    cell = locate(rows, "S")
    for move in split_plan(plan):
        if stop_at_goal and rows[cell[0]][cell[1]] == "G":
            return True
        if move not in MOVES:
            return False
        cell = step(cell, move)
        if not on_grid(cell, len(rows)) or rows[cell[0]][cell[1]] == "H":
            return False
    return rows[cell[0]][cell[1]] == "G"


def shortest_plan(rows: Sequence[str]) -> list[str] | None:
    """The moves of a shortest plan, None when there is no way. Of several, the first in the order U, D, L, R."""
    start = locate(rows, "S")
    plans: dict[Cell, list[str]] = {start: []}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        if rows[cell[0]][cell[1]] == "G":
            return plans[cell]
        for move in MOVES:
            target = step(cell, move)
            if target not in plans and on_grid(target, len(rows)) and rows[target[0]][target[1]] != "H":
                plans[target] = [*plans[cell], move]
                queue.append(target)
    return None


def manhattan_plan(rows: Sequence[str]) -> list[str]:
    """The baseline that ignores holes: first up or down to the goal's row, then left or right to its column."""
    start, goal = locate(rows, "S"), locate(rows, "G")
    down, right = goal[0] - start[0], goal[1] - start[1]
    return ["D" if down > 0 else "U"] * abs(down) + ["R" if right > 0 else "L"] * abs(right)


def plan_path(rows: Sequence[str], plan: Sequence[str]) -> list[Cell]:
    """The cells a plan visits, the start first."""
    cells = [locate(rows, "S")]
    for move in plan:
        cells.append(step(cells[-1], move))
    return cells


def canonical(rows: Sequence[str]) -> str:
    """The same text for all eight rotations and reflections of a map: the least of them, rows joined by newlines."""
    size = len(rows)
    cells = "".join(rows)
    variants = ("".join(gather(cells)) for gather, _, _ in symmetries(size))
    return min("\n".join(text[i : i + size] for i in range(0, size * size, size)) for text in variants)


def map_hash(rows: Sequence[str]) -> str:
    """The class of a map as it stands in the reserved file: size and 16 hex digits of SHA-256."""
    return f"{len(rows)} {hashlib.sha256(canonical(rows).encode()).hexdigest()[:16]}"


@cache
def reserved_hashes() -> frozenset[str]:
    """Classes of the published VSP maps, which are kept for evaluation and never generated."""
    text = files("covt_data").joinpath("resources", RESERVED_FILE).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def _draw(random_: random.Random, conditions: VspConditions, taken: set[str]) -> tuple[str, ...]:
    """A random map that meets the conditions, whose class is neither reserved nor in `taken`.

    The size, and whether the map needs a detour, are drawn first, so rejected maps don't shift their shares.
    """
    size = random_.choice(conditions.sizes)
    detour = None if conditions.detour_share is None else random_.random() < conditions.detour_share
    for _ in range(MAX_REJECTED):
        cells = ["H" if random_.random() < conditions.hole_density else "F" for _ in range(size * size)]
        start, goal = random_.sample(range(size * size), 2)
        cells[start], cells[goal] = "S", "G"
        rows = tuple("".join(cells[i : i + size]) for i in range(0, size * size, size))
        plan = shortest_plan(rows)
        if plan is None or len(plan) < conditions.min_path:
            continue
        if detour is not None and detour == simulate(rows, manhattan_plan(rows)):
            continue
        name = map_hash(rows)
        if name not in reserved_hashes() and name not in taken:
            return rows
    raise DataError(
        f"no further {size}×{size} map was found with hole_density={conditions.hole_density}, "
        f"min_path={conditions.min_path}, detour_share={conditions.detour_share}; {len(taken)} are test maps",
        "ask for fewer test rows, larger sizes, or conditions that more maps meet",
    )


def generate_test(seed: str, count: int, conditions: VspConditions, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """`count` maps, no two of one class; their classes are added to `taken`. `DataError` when there are no more."""
    random_ = random.Random(seed)  # a text seed is hashed by SHA-512: the same on every platform
    for _ in range(count):
        rows = _draw(random_, conditions, taken)
        taken.add(map_hash(rows))
        yield rows


def generate_train(seed: str, count: int, conditions: VspConditions, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """`count` maps of classes that are not in `taken`, drawn independently.

    A map may come again: there are only 6792 solvable maps of 3×3, and keeping them all different would leave a long
    training split with mostly the rare ones.
    """
    random_ = random.Random(seed)
    for _ in range(count):
        yield _draw(random_, conditions, taken)
