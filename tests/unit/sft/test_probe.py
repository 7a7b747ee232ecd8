"""Judging answers while training."""

import json

import pytest

from covt_data.schema import Row
from covt_sft.probe import is_correct


def row(answer: str, grader: str = "text", **meta: object) -> Row:
    return Row(id="r", source="s", split="t", question="q", answer=answer, grader=grader, metadata=json.dumps(meta))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\\boxed{B3}", True),
        ("so \\boxed{A1}, no: \\boxed{ B3 }.", True),
        ("\\boxed{B2}", False),
        ("B3", False),
        ("", False),
    ],
)
def test_the_last_box_counts(text, right):
    assert is_correct(row("B3"), text) is right


def test_any_plan_that_reaches_the_goal_is_right():
    maze = row("R,D", "vsp", rows=["SF", "FG"])
    assert is_correct(maze, "\\boxed{D,R}")
    assert not is_correct(maze, "\\boxed{D}")
    assert not is_correct(maze, "\\boxed{}")
