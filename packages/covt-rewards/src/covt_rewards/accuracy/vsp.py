"""`vsp`: grade a plan by walking it over the FrozenLake map of Visual Spatial Planning (`tasks/vsp_plan.py`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.answers import final_answer, strip_special_tokens
from covt_rewards.tasks.plan_reading import MAX_PLAN_CHARACTERS, parse_plan
from covt_rewards.tasks.vsp_plan import check_map, walk_plan

_LABEL = re.compile(
    r"[^:：\n]{0,40}\b(?:plan|path|moves|actions|sequence|directions)\b[^:：\n]{0,20}[:：](.*)", re.IGNORECASE
)


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 to any plan that succeeds, not only to the gold one.

    Raises:
        GoldError: when `metadata["rows"]` holds no map.
    """
    rows = check_map(task.metadata.get("rows"))
    grades: list[Grade] = []
    for text in texts:
        answer = final_answer(text, task.lenient)
        plan = None if answer.kind in ("none", "open") else parse_plan(answer.text)
        if plan is None and task.lenient and answer.kind in ("none", "line", "phrase"):
            plan = _find_unmarked_plan(text)
        if not answer.text and plan is None:
            grades.append(Grade(0.0, "no answer found"))
        elif plan is None:
            grades.append(Grade(0.0, f"not a plan: {answer.text[:80]!r}"))
        else:
            walk = walk_plan(rows, plan, task.vsp_rule)
            grades.append(Grade(float(walk.success), walk.outcome.value, {"moves": float(len(plan))}))
    return grades


def _find_unmarked_plan(text: str) -> list[str] | None:
    """Read the last plan after a label, `**Action plan:** R,D`, or a last line that holds nothing but a plan."""
    lines = [line.strip(" *#>`\t") for line in strip_special_tokens(text[-MAX_PLAN_CHARACTERS:]).splitlines()]
    lines = [line for line in lines if line]
    labels = [match.group(1).strip(" *`") for line in lines if (match := _LABEL.fullmatch(line))]
    candidates = [*labels[-1:], *lines[-1:]]
    return next((plan for candidate in candidates if (plan := parse_plan(candidate))), None)
