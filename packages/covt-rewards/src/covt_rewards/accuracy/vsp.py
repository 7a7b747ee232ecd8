"""`vsp`: walk the plan over the FrozenLake map of Visual Spatial Planning.

Both public judges leave the walker where it is when a move would leave the map and fail it in a hole. They differ on
plans that pass over the goal: gymnasium stops there and is content (`stop_at_goal`), Mirage's judge walks on and asks
that the last cell is the goal (`end_on_goal`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from covt_rewards.accuracy.grade import Grade, Task
from covt_rewards.answers import final_answer, strip_special_tokens
from covt_rewards.reward_errors import GoldError, RewardError

RULES = ("stop_at_goal", "end_on_goal")
MOVES = {"L": (0, -1), "R": (0, 1), "U": (-1, 0), "D": (1, 0)}
_ARROWS = {"←": "L", "→": "R", "↑": "U", "↓": "D"}
_WORD = re.compile(r"left|right|up|down|[lrud←→↑↓]", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s,;.\-\[\]()\"'`$]*")
_LABEL = re.compile(
    r"[^:：\n]{0,40}\b(?:plan|path|moves|actions|sequence|directions)\b[^:：\n]{0,20}[:：](.*)", re.IGNORECASE
)
LONGEST = 20_000


def parse_plan(text: str) -> list[str] | None:
    r"""Moves of `R,U,L`, `RUL`, `Right, Up`, `→ ↑`, `\text{R, U}`; None when anything else stands in between."""
    text = text[:LONGEST].replace("\\text{", "").replace("\\rightarrow", "→").replace("\\leftarrow", "←")
    text = text.replace("\\uparrow", "↑").replace("\\downarrow", "↓").replace("}", "").replace("->", " ")
    moves: list[str] = []
    at = _end_of_separators(text, 0)
    while at < len(text):
        word = _WORD.match(text, at)
        if word is None:
            return None
        token = word.group()
        moves.append(_ARROWS.get(token, token[0].upper()))
        at = _end_of_separators(text, word.end())
    return moves


def _end_of_separators(text: str, at: int) -> int:
    match = _BETWEEN.match(text, at)
    return at if match is None else match.end()


def _labelled_plan(text: str) -> list[str] | None:
    """The last plan after a label, `**Action plan:** R,D`, or the last line where that is nothing but a plan."""
    lines = [line.strip(" *#>`\t") for line in strip_special_tokens(text[-LONGEST:]).splitlines()]
    lines = [line for line in lines if line]
    labels = [match.group(1).strip(" *`") for line in lines if (match := _LABEL.fullmatch(line))]
    candidates = [*labels[-1:], *lines[-1:]]
    return next((plan for candidate in candidates if (plan := parse_plan(candidate))), None)


def simulate(rows: Sequence[str], plan: Sequence[str], rule: str = "stop_at_goal") -> tuple[bool, str]:
    """Walk `plan` over `rows` (`S` start, `F` ice, `H` hole, `G` goal).

    Returns:
        Success, and `reached the goal`, `fell into a hole` or `did not end on the goal`.
    """
    if rule not in RULES:
        raise RewardError(f"there is no judging rule {rule!r}", f"the rules are {', '.join(RULES)}")
    r, c = next((r, row.index("S")) for r, row in enumerate(rows) if "S" in row)
    for move in plan:
        dr, dc = MOVES[move]
        if 0 <= r + dr < len(rows) and 0 <= c + dc < len(rows[0]):
            r, c = r + dr, c + dc
        if rows[r][c] == "H":
            return False, "fell into a hole"
        if rows[r][c] == "G" and rule == "stop_at_goal":
            return True, "reached the goal"
    return (True, "reached the goal") if rows[r][c] == "G" else (False, "did not end on the goal")


def read_map(task: Task) -> list[str]:
    """The map in `metadata["rows"]`, checked.

    Raises:
        GoldError: when it is missing, not a rectangle of S, F, H, G, or has not one start and one goal.
    """
    rows = task.metadata.get("rows")
    if (
        not isinstance(rows, list | tuple)
        or not rows
        or not all(isinstance(row, str) for row in cast("list[object]", rows))
    ):
        raise GoldError("a vsp row needs its map in metadata.rows", 'give {"rows": ["SFH", …]}')
    lines = [str(row) for row in cast("list[object]", rows)]
    cells = "".join(lines)
    if len({len(line) for line in lines}) != 1 or set(cells) - set("SFHG") or [cells.count(x) for x in "SG"] != [1, 1]:
        raise GoldError(f"metadata.rows {lines} is not a map", "a rectangle of S, F, H, G with one S and one G")
    return lines


def grade(task: Task, texts: Sequence[str]) -> list[Grade]:
    """1 when the plan succeeds; any successful plan counts, not only the gold one."""
    rows = read_map(task)
    grades: list[Grade] = []
    for text in texts:
        answer = final_answer(text, task.lenient)
        plan = None if answer.kind == "none" else parse_plan(answer.text)
        if plan is None and task.lenient and answer.kind in ("none", "line", "phrase"):
            plan = _labelled_plan(text)
        if answer.kind == "none" and plan is None:
            grades.append(Grade(0.0, "no answer found"))
        elif plan is None:
            grades.append(Grade(0.0, f"not a plan: {answer.text[:80]!r}"))
        else:
            success, reason = simulate(rows, plan, task.vsp_rule)
            grades.append(Grade(float(success), reason, {"moves": float(len(plan))}))
    return grades
