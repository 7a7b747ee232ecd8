"""`math`: LaTeX, numbers, sets, intervals, by math-verify (https://github.com/huggingface/Math-Verify).

Most answers are constants and need no computer algebra. The rest goes to worker processes that are killed at the time
limit (`algebra/`), so that no answer can delay a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from covt_rewards.accuracy.choice import grade as grade_choice
from covt_rewards.accuracy.graders import Grade, GradingTask, is_letter
from covt_rewards.algebra.worker_pool import Verdict, shared_pool
from covt_rewards.answers import FinalAnswer, final_answer, marked_answers, strip_special_tokens
from covt_rewards.expressions.constants import compare_constants, read_constant
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.notations import compare_notations
from covt_rewards.expressions.respell import respell
from covt_rewards.reward_errors import GoldError

_BARE_NUMBER = re.compile(r"-?(?:\d{1,3}(?:[ ,]\d{3})+|\d+)?(?:\.\d+)?\s*(?:%|°|(?<=\s)[^\W\d_]{2,}[^\d\\]*)?")
_BOLD_NUMBER = re.compile(r"\*\*\s{0,4}\$?(-?\d[\d,]{0,20}(?:\.\d{1,15})?)\s{0,4}\.?\s{0,4}\*\*")
_PROSE = re.compile(r"[A-Za-z]{2,}\s[A-Za-z]{2,}")
_TIGHT_EQUALS = re.compile(r"(?<=\d)=(?=[-\d])")  # math-verify reads the first 9 of "9+9=18"
_CONNECTED = re.compile(r"[^\n]{0,40}?(?:,|\band\b|\bor\b)[^\n]{0,20}")
MAX_CHARACTERS = 20_000
"""Characters from the end of a completion that math-verify reads: answers stand there."""


def compare_without_algebra(gold: str, answer: str, precision: int = 6) -> bool | None:
    """Compare two constants without algebra; None means that math-verify must decide."""
    value = read_constant(answer)
    expected = None if value is None else read_constant(gold)
    return None if value is None or expected is None else compare_constants(expected, value, precision)


def as_latex(gold: str) -> str:
    r"""Put a gold answer into `$…$` where it has no delimiters: math-verify reads only the 2 of a bare `2x`.

    Bare numbers such as `1 234`, `12 cm`, `50%` stay as they are.
    """
    bare = not any(mark in gold for mark in ("$", "\\(", "\\[", "\\boxed"))
    return f"${gold.strip()}$" if bare and not _BARE_NUMBER.fullmatch(gold.strip()) else gold


def _answer(text: str, lenient: bool) -> FinalAnswer:
    """Read and respell the final answer; without one, take the last number in bold, as chat models write it."""
    answer = final_answer(text, lenient)
    if answer.kind != "none" or not lenient:
        return FinalAnswer(respell(answer.text), answer.kind)
    bold = _BOLD_NUMBER.findall(text[-MAX_CHARACTERS:])
    return FinalAnswer(bold[-1], "bold") if bold else answer


def _text_for_algebra(answer: FinalAnswer, text: str) -> str:
    r"""Choose what math-verify reads: the marked answer alone as mathematics, else the end of the completion.

    `\boxed{1} and \boxed{2}` is one answer in two boxes, so math-verify sees both with the text around them.
    """
    if answer.kind == "tag" and _PROSE.search(strip_text_commands(answer.text)):
        return answer.text  # "The answer is 42": not mathematics as a whole
    if answer.kind in ("tag", "boxed", "bold") and not _in_several_boxes(answer, text):
        return "\\boxed{" + _without_full_stop(answer) + "}"
    return _TIGHT_EQUALS.sub("= ", strip_special_tokens(text)[-MAX_CHARACTERS:].replace("−", "-"))


def _in_several_boxes(answer: FinalAnswer, text: str) -> bool:
    if answer.kind != "boxed" or text.count("boxed{") + text.count("fbox{") == 1:
        return False
    text = strip_special_tokens(text[-2 * MAX_CHARACTERS :])
    boxes = marked_answers(text).candidates[-2:]
    return len(boxes) == 2 and _CONNECTED.fullmatch(text[boxes[0].end : boxes[1].start]) is not None


def _without_full_stop(answer: FinalAnswer) -> str:
    """Strip a full stop: math-verify reads nothing from `1.`."""
    return answer.text.rstrip(" .")


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when math-verify considers answer and gold answer equal.

    Raises:
        GoldError: when nothing can be read from the gold answer.
    """
    if is_letter(task.gold):  # math-verify reads no letters
        return grade_choice(task, texts)
    task = replace(task, gold=respell(task.gold))
    answers = [_answer(text, task.lenient) for text in texts]
    grades: list[Grade | None] = [
        _without_algebra(task, answer, text) for answer, text in zip(answers, texts, strict=True)
    ]
    open_items = [i for i, grade in enumerate(grades) if grade is None]
    if open_items or not texts:
        shown = [_text_for_algebra(answers[i], texts[i]) for i in open_items]
        for i, verdict in zip(open_items, _by_algebra(task, shown), strict=True):
            grades[i] = Grade(float(verdict.equal), verdict.reason)
    return [grade for grade in grades if grade is not None]


def _by_algebra(task: GradingTask, shown: Sequence[str]) -> Sequence[Verdict]:
    """Ask math-verify for verdicts; without texts, only check the gold answer."""
    gold, pool = as_latex(task.gold), shared_pool()
    if shown:
        verdicts = pool.verify(gold, shown, task.time_limit, task.precision)
        problem, items = verdicts.gold_problem, verdicts.items
    else:
        problem, items = (
            "" if read_constant(task.gold) is not None else pool.find_gold_problem(gold, task.time_limit),
            (),
        )
    if problem:
        message = f"nothing can be read from the gold answer {task.gold[:200]!r}: {problem}"
        raise GoldError(message, "correct or drop the row, or choose another grader")
    return items


def _without_algebra(task: GradingTask, answer: FinalAnswer, text: str) -> Grade | None:
    """Grade the answer by its form or as a constant; None means that math-verify must decide."""
    if not task.lenient and answer.kind == "none":
        return Grade(0.0, "no answer found")
    if len(answer.text) > MAX_CHARACTERS:
        return Grade(0.0, f"an answer of more than {MAX_CHARACTERS} characters")
    if answer.kind in ("phrase", "none"):
        return None
    verdict = compare_without_algebra(task.gold, _without_full_stop(answer), task.precision)
    if verdict is None:
        verdict = compare_notations(task.gold, answer.text)
    if verdict is None or _in_several_boxes(answer, text):
        return None
    return Grade(float(verdict), "" if verdict else f"answered {answer.text[:80]}, gold is {task.gold[:80]}")
