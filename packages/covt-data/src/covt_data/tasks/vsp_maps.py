"""The `vsp` task: maps of FrozenLake path planning, after Visual Spatial Planning (VSP).

A map is a list of rows of `S` (start), `G` (goal), `H` (hole) and `F` (ice). The answer is a shortest plan such as
`R,R,D`. `covt_rewards.tasks.vsp_plan` holds the rule that says whether a plan succeeds.
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
from covt_rewards.tasks.vsp_plan import find_cell, walk_plan

RESERVED_FILE = "vsp_reserved.txt"
MAX_REJECTED = 20_000  # consecutive draws that break a condition or repeat a test map; then generation gives up


@dataclass(frozen=True)
class VspConditions:
    """Conditions that generated maps meet.

    Attributes:
        sizes: side lengths in cells; each is equally likely.
        hole_density: probability of a hole on each cell that is neither start nor goal.
        min_path: least number of moves of a shortest plan.
        detour_share: fraction of maps on which the Manhattan plan fails; None leaves it to chance.
        max_path: most moves of a shortest plan; None sets no limit.
    """

    sizes: tuple[int, ...]
    hole_density: float
    min_path: int
    detour_share: float | None
    max_path: int | None = None


def shortest_plan(rows: Sequence[str]) -> list[str] | None:
    """Return the moves of a shortest plan, or None when the goal cannot be reached.

    Of several shortest plans, it is the first one in the order U, D, L, R.
    """
    start = find_cell(rows, "S")
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
    """Return the plan of the baseline that ignores holes: first to the goal's row, then to its column."""
    start, goal = find_cell(rows, "S"), find_cell(rows, "G")
    down, right = goal[0] - start[0], goal[1] - start[1]
    return ["D" if down > 0 else "U"] * abs(down) + ["R" if right > 0 else "L"] * abs(right)


def canonical(rows: Sequence[str]) -> str:
    """Return the smallest text among the eight rotations and reflections of a map, with rows joined by newlines."""
    size = len(rows)
    cells = "".join(rows)
    variants = ("".join(gather(cells)) for gather, _, _ in symmetries(size))
    return min("\n".join(text[i : i + size] for i in range(0, size * size, size)) for text in variants)


def map_hash(rows: Sequence[str]) -> str:
    """Return the symmetry class of a map as the reserved file writes it: size and 16 hex digits of SHA-256."""
    return f"{len(rows)} {hashlib.sha256(canonical(rows).encode()).hexdigest()[:16]}"


@cache
def reserved_hashes() -> frozenset[str]:
    """Return the classes of the published VSP maps. They are for evaluation and are never generated."""
    text = files("covt_data").joinpath("resources", RESERVED_FILE).read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def _draw(random_: random.Random, conditions: VspConditions, taken: set[str]) -> tuple[str, ...]:
    """Draw a map that meets the conditions and whose class is neither reserved nor in `taken`.

    The size and the need for a detour are drawn once, before the map, so rejected maps do not shift their frequencies.
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
        if conditions.max_path is not None and len(plan) > conditions.max_path:
            continue
        if detour is not None and detour == walk_plan(rows, manhattan_plan(rows)).success:
            continue
        name = map_hash(rows)
        if name not in reserved_hashes() and name not in taken:
            return rows
    raise DataError(
        f"no further {size}×{size} map was found with hole_density={conditions.hole_density}, "
        f"min_path={conditions.min_path}, detour_share={conditions.detour_share}{_limit(conditions)}; "
        f"{len(taken)} are test maps",
        "ask for fewer test rows, larger sizes, or conditions that more maps meet",
    )


def _limit(conditions: VspConditions) -> str:
    return "" if conditions.max_path is None else f" and plans of at most {conditions.max_path} moves"


def generate_test(seed: str, count: int, conditions: VspConditions, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield `count` maps of different classes and add their classes to `taken`.

    Raises:
        DataError: when no further map is found.
    """
    random_ = random.Random(seed)  # a text seed is hashed by SHA-512: the same on every platform
    for _ in range(count):
        rows = _draw(random_, conditions, taken)
        taken.add(map_hash(rows))
        yield rows


def generate_train(seed: str, count: int, conditions: VspConditions, taken: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield `count` independent maps whose classes are not in `taken`.

    Maps may repeat: only 6792 solvable 3×3 maps exist, and without repetition a long training split would consist
    mostly of rare ones.
    """
    random_ = random.Random(seed)
    for _ in range(count):
        yield _draw(random_, conditions, taken)
