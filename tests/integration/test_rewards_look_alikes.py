"""Right answers in unusual words, and wrong answers that look like the right one, marked and unmarked."""

import json
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import GoldError, grade

DATA = Path(__file__).parent / "data"
CASES = [json.loads(line) for line in (DATA / "wrong_answers.jsonl").read_text(encoding="utf-8").splitlines()]
RIGHT = [json.loads(line) for line in (DATA / "right_answers.jsonl").read_text(encoding="utf-8").splitlines()]


def is_right(completion: str, case: dict[str, Any], grader: str) -> bool:
    try:
        return grade(completion, case["gold"], grader, options=case["options"]) > 0.0
    except GoldError:
        return False


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['grader']}: {case['gold']}")
def test_no_wrong_answer_is_accepted(case: dict[str, Any]) -> None:
    marked = [text for answer in case["wrong"] for text in (rf"\boxed{{{answer}}}", f"<answer>{answer}</answer>")]
    for grader in {case["grader"], ""}:
        assert [text for text in marked if is_right(text, case, grader)] == []


@pytest.mark.parametrize("case", [case for case in CASES if case["options"]], ids=lambda case: case["gold"])
def test_no_wrong_option_is_accepted_without_a_marker(case: dict[str, Any]) -> None:
    assert [answer for answer in case["wrong"] if is_right(answer, case, "choice")] == []


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: f"{case['grader']}: {case['gold']}")
def test_right_answers_are_accepted(case: dict[str, Any]) -> None:
    assert [text for text in case["right"] if not is_right(text, case, case["grader"])] == []
