"""Answers after public bug reports, each with a person's verdict: the score by kind, and no wrong answer accepted."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import GoldError, Group, Rollout, grade
from covt_rewards.rewards.format import FormatReward

FILE = Path(__file__).parent / "data" / "graded_answers.jsonl"


def score(case: dict[str, Any]) -> float | None:
    """Grade as the accuracy reward does, or check the format; None for a gold answer that is refused."""
    completion = Rollout(case["completion"])
    if case["grader"].startswith("format:"):
        style = case["grader"].removeprefix("format:")
        reward = FormatReward(think=True) if style == "think" else FormatReward(answer=style)
        return reward(Group(case["answer"], (completion,)))[0].value
    try:
        return grade(completion.text, case["answer"], case["grader"], case.get("metadata"), case.get("options") or ())
    except GoldError:
        return None


@pytest.fixture(scope="module")
def verdicts() -> list[tuple[dict[str, Any], float | None]]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [(case, score(case)) for case in map(json.loads, lines)]


def test_settled_answers_get_a_persons_verdict(verdicts: list[tuple[dict[str, Any], float | None]]) -> None:
    by_kind: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)
    for case, given in verdicts:
        if case["settled"]:
            is_right = given == pytest.approx(case["expected"]) or (given is None and case["expected"] == 0)
            by_kind[case["grader"], case["source"]].append(is_right)
    for (grader, source), results in sorted(by_kind.items()):
        print(f"{grader or 'chosen':14} {source:45} {sum(results):4} of {len(results)}")
    right = sum(map(sum, by_kind.values()))
    count = sum(map(len, by_kind.values()))
    print(f"all: {right} of {count}, {right / count:.1%}")
    assert count == 846
    assert right / count >= 0.97


def test_no_settled_wrong_answer_is_accepted(verdicts: list[tuple[dict[str, Any], float | None]]) -> None:
    accepted = [case["id"] for case, given in verdicts if case["settled"] and (given or 0.0) > case["expected"] + 1e-6]
    assert accepted == []
