"""`math`: LaTeX, numbers, sets, intervals, by math-verify (https://github.com/huggingface/Math-Verify).

Most answers are plain numbers or equal to the gold answer letter for letter and need no computer algebra; the rest goes
to worker processes that are killed at the time limit (`workers.py`), so that no answer can hold up a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from covt_rewards.accuracy.choice import grade as grade_choice
from covt_rewards.accuracy.grade import Grade, Task, is_letter
from covt_rewards.accuracy.workers import shared_pool
from covt_rewards.answers import FinalAnswer, final_answer, strip_special_tokens
from covt_rewards.errors import GoldError

_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,6})?")
LONGEST = 20_000
"""Characters of a completion that math-verify is shown, from its end: where answers stand."""


def plain_number(text: str) -> Decimal | None:
    """A short decimal number such as `-12.50`, exactly; None for everything else."""
    stripped = text.strip().removeprefix("$").removesuffix("$").strip()
    return Decimal(stripped) if _NUMBER.fullmatch(stripped) else None


def fast_verdict(gold: str, answer: str, precision: int = 6) -> bool | None:
    """The verdict where it needs no algebra: two plain numbers. None means: ask math-verify.

    math-verify compares numbers after rounding to 6 decimals; numbers of at most 6 decimals are compared exactly.
    """
    number = plain_number(gold)
    other = plain_number(answer)
    if number is None or other is None:
        return None
    if number == other:
        return True
    return False if precision >= 6 else None


def as_latex(gold: str) -> str:
    """A gold answer in mathematical delimiters when it needs them: bare `25\\pi` is read only as `$25\\pi$`."""
    bare = not any(mark in gold for mark in ("$", "\\(", "\\[", "\\boxed"))
    return f"${gold.strip()}$" if bare and ("\\" in gold or gold.lstrip().startswith("+")) else gold


def _shown(answer: FinalAnswer, text: str) -> str:
    """What math-verify is to read: a tag's content as mathematics, otherwise the completion with its own markers."""
    if answer.kind == "tag":
        return "\\boxed{" + answer.text + "}"
    return strip_special_tokens(text)[-LONGEST:]


def grade(task: Task, texts: Sequence[str]) -> list[Grade]:
    """1 when math-verify holds answer and gold for equal.

    Raises:
        GoldError: when nothing can be read from the gold answer.
    """
    if is_letter(task.gold):  # a choice among math rows; math-verify reads no letters
        return grade_choice(task, texts)
    answers = [final_answer(text, task.lenient) for text in texts]
    grades: list[Grade | None] = [_without_algebra(task, answer) for answer in answers]
    open_items = [i for i, grade in enumerate(grades) if grade is None]
    needs_gold = not texts and plain_number(task.gold) is None
    if open_items or needs_gold:
        pool = shared_pool()
        shown = [_shown(answers[i], texts[i]) for i in open_items]
        verdicts = pool.verify(as_latex(task.gold), shown, task.time_limit, task.precision)
        if verdicts.gold_problem:
            message = f"nothing can be read from the gold answer {task.gold[:200]!r}: {verdicts.gold_problem}"
            raise GoldError(message, "mend or drop the row, or choose another grader")
        for i, verdict in zip(open_items, verdicts.items, strict=True):
            grades[i] = Grade(float(verdict.equal), verdict.reason)
    return [grade for grade in grades if grade is not None]


def _without_algebra(task: Task, answer: FinalAnswer) -> Grade | None:
    if not task.lenient and answer.kind == "none":
        return Grade(0.0, "no answer found")
    if answer.kind in ("phrase", "none"):
        return None
    verdict = fast_verdict(task.gold, answer.text, task.precision)
    if verdict is None:
        return None
    return Grade(float(verdict), "" if verdict else f"answered {answer.text[:80]}, gold is {task.gold[:80]}")
