"""The rule of a plan in Visual Spatial Planning (VSP), which is FrozenLake with a deterministic walker.

A map is a list of rows such as `["SFH", "FFG"]`: `S` start, `F` ice, `H` hole, `G` goal. A plan is a list of moves
`L`, `R`, `U`, `D`. A move that would leave the map leaves the walker in place. A move into a hole ends the walk and
fails the plan. The two variants differ on plans that reach the goal and continue:

- `stop_at_goal`: the walk ends on the goal with success, as in gymnasium's FrozenLake environment.
- `end_on_goal`: the walk continues, and the last cell must be the goal, as in Mirage's judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, cast, get_args

from covt_rewards.reward_errors import GoldError, RewardError
from covt_rewards.tasks.plan_reading import parse_plan

__all__ = ["Cell", "PlanOutcome", "PlanVariant", "PlanWalk", "check_map", "find_cell", "parse_plan", "walk_plan"]

Cell = tuple[int, int]
"""Row and column, both from 0, the first row on top."""

PlanVariant = Literal["stop_at_goal", "end_on_goal"]
VARIANTS: tuple[PlanVariant, ...] = get_args(PlanVariant)
MOVES: dict[str, Cell] = {"L": (0, -1), "R": (0, 1), "U": (-1, 0), "D": (1, 0)}


class PlanOutcome(StrEnum):
    """How a walk ends; the value is the reason that a grade shows."""

    REACHED_GOAL = "reached the goal"
    FELL_INTO_HOLE = "fell into a hole"
    MISSED_GOAL = "did not end on the goal"


@dataclass(frozen=True, slots=True)
class PlanWalk:
    """A plan walked over a map.

    Attributes:
        cells: the start, then the cell after each executed move: move `i` leads from `cells[i]` to `cells[i + 1]`.
            A blocked move repeats its cell. The walk ends early in a hole, and on the goal under `stop_at_goal`.
        outcome: how the walk ended.
        blocked_moves: indices of the executed moves that would have left the map.
    """

    cells: tuple[Cell, ...]
    outcome: PlanOutcome
    blocked_moves: tuple[int, ...] = ()

    @property
    def success(self) -> bool:
        return self.outcome is PlanOutcome.REACHED_GOAL

    @property
    def end(self) -> Cell:
        """The last cell: the goal, the hole, or where the plan ran out."""
        return self.cells[-1]

    @property
    def failed_move(self) -> int | None:
        """The index of the move that entered the hole; None when no hole was entered."""
        return len(self.cells) - 2 if self.outcome is PlanOutcome.FELL_INTO_HOLE else None


def walk_plan(rows: Sequence[str], moves: Sequence[str], variant: PlanVariant = "stop_at_goal") -> PlanWalk:
    """Walk a plan over a map.

    Args:
        rows: the map, a rectangle with one `S`; `check_map` checks it.
        moves: `L`, `R`, `U` or `D` each; `parse_plan` reads them from text.
        variant: `stop_at_goal` or `end_on_goal`, see the module's docstring.

    Raises:
        RewardError: for an unknown variant, an unknown move, or a map without a start.
    """
    if variant not in VARIANTS:
        raise RewardError(f"there is no variant {variant!r} of a plan's rule", f"choose one of {', '.join(VARIANTS)}")
    cells = [find_cell(rows, "S")]
    blocked: list[int] = []
    for index, move in enumerate(moves):
        row, column = cells[-1]
        if variant == "stop_at_goal" and rows[row][column] == "G":
            break
        if move not in MOVES:
            raise RewardError(f"move {index} of the plan is {move!r}", f"give one of {', '.join(MOVES)}")
        target = row + MOVES[move][0], column + MOVES[move][1]
        if not (0 <= target[0] < len(rows) and 0 <= target[1] < len(rows[0])):
            blocked.append(index)
            target = row, column
        cells.append(target)
        if rows[target[0]][target[1]] == "H":
            return PlanWalk(tuple(cells), PlanOutcome.FELL_INTO_HOLE, tuple(blocked))
    row, column = cells[-1]
    outcome = PlanOutcome.REACHED_GOAL if rows[row][column] == "G" else PlanOutcome.MISSED_GOAL
    return PlanWalk(tuple(cells), outcome, tuple(blocked))


def find_cell(rows: Sequence[str], letter: str) -> Cell:
    """The first cell with this letter, in reading order.

    Raises:
        RewardError: when the map has no such cell.
    """
    for row, cells in enumerate(rows):
        if letter in cells:
            return row, cells.index(letter)
    raise RewardError(f"the map {list(rows)} has no {letter}", "give a map with one S and one G")


def check_map(rows: object, where: str = "metadata.rows") -> list[str]:
    """Return the rows of a map after checking them.

    Args:
        rows: anything, such as a value read from JSON.
        where: what an error calls the value.

    Raises:
        GoldError: unless it is a rectangle of `S`, `F`, `H`, `G` with one start and one goal.
    """
    lines = list(cast("Sequence[object]", rows)) if isinstance(rows, list | tuple) else []
    texts = [line for line in lines if isinstance(line, str)]
    if not lines or len(texts) != len(lines):
        raise GoldError(f"a vsp row needs its map in {where}", 'give {"rows": ["SFH", …]}')
    cells = "".join(texts)
    counts = [cells.count(letter) for letter in "SG"]
    if len({len(text) for text in texts}) != 1 or set(cells) - set("SFHG") or counts != [1, 1]:
        raise GoldError(f"{where} {texts} is not a map", "give a rectangle of S, F, H, G with one S and one G")
    return texts
