"""Options named in every spelling, and answers that name none, several or another: through the grader `choice`."""

import json
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import GoldError, grade

FILE = Path(__file__).parent / "data" / "choice_spellings.jsonl"
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
GOLDS = [
    "B",
    "(B)",
    "B)",
    "B.",
    "[B]",
    "b",
    "(b)",
    "Option B",
    "option B",
    "Choice B",
    "B. dog",
    "(B) dog",
    "B) dog",
    "B: dog",
    "b) dog",
    "B - dog",
    "dog",
    "Dog",
    "DOG",
    "a dog",
    "\\boxed{B}",
    "\\boxed{\\text{B}}",
    "\\text{B}",
    "\\textbf{B}",
    "**B**",
    '"B"',
    "'B'",
    "$B$",
    " B ",
    "B\n",
    "Answer: B",
    "The answer is B",
    "\\boxed{B. dog}",
    "<answer>B</answer>",
    "Ｂ",
    "（B）",
    "【B】",
    "选B",
    "答案：B",
    "\\mathrm{B}",
    "B、dog",
    "dog.",
]
ANIMALS = ("cat", "dog", "horse", "cow")


def is_right(options: tuple[str, ...], gold: str, answer: str, grader: str = "choice") -> bool:
    """Grade an answer inside a tag, or a completion as it stands behind `RAW:`."""
    completion = answer.removeprefix("RAW:") if answer.startswith("RAW:") else f"<answer>{answer}</answer>"
    try:
        return grade(completion, gold, grader, options=options) == 1.0
    except GoldError:
        return False


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['gold']} of {len(case['options'])}")
def test_an_option_is_named_in_any_spelling(case: dict[str, Any]) -> None:
    options, gold = tuple(case["options"]), case["gold"]
    assert [answer for answer in case["right"] if not is_right(options, gold, answer)] == []
    assert [answer for answer in case["wrong"] if is_right(options, gold, answer)] == []


@pytest.mark.parametrize("grader", ["choice", "text", "math", ""])
@pytest.mark.parametrize("gold", GOLDS)
def test_a_gold_answer_names_an_option_in_any_spelling(gold: str, grader: str) -> None:
    assert all(is_right(ANIMALS, gold, answer, grader) for answer in ("B", "dog", "(B) dog", "b"))
    assert not any(is_right(ANIMALS, gold, answer, grader) for answer in ("A", "C", "cat", "A. cat", "A, B", "D"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["(A) ", "A, ", "(A)(B)", "[[A]", "option ", "both A and ", '"A" ', "A. ", "not A ", "a "]
)
@pytest.mark.parametrize("count", [45, 400, 20_000])
def test_no_repetition_takes_long(piece: str, count: int) -> None:
    assert not is_right(ANIMALS, "D", piece * count)
    assert not is_right(ANIMALS, "D", "RAW:" + piece * count)
