"""`math`: LaTeX, numbers, sets, intervals, by math-verify (https://github.com/huggingface/Math-Verify).

Most answers are constants or numbers with units and need no computer algebra. The rest goes to worker processes that
are killed at the time limit (`algebra/`), so that no answer can delay a run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.algebra.worker_pool import Verdict, shared_pool
from covt_rewards.answer_sentences import find_only_number, says_no_number
from covt_rewards.answers import FinalAnswer, final_answer, marked_answers, strip_special_tokens
from covt_rewards.expressions.constants import compare_constants, read_constant
from covt_rewards.expressions.intervals import as_interval
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.notations import compare_notations
from covt_rewards.expressions.quantities import Quantity, compare_quantities, read_quantity
from covt_rewards.expressions.respell import respell
from covt_rewards.expressions.written_forms import compare_written_forms, simplify_answer
from covt_rewards.reward_errors import GoldError

_BARE_NUMBER = re.compile(r"-?(?:\d{1,3}(?:[ ,]\d{3})+|\d+)?(?:\.\d+)?\s*(?:%|°|(?<=\s)[^\W\d_]{2,}[^\d\\]*)?")
_READ_BY_ALGEBRA = re.compile(r"[\d$\\\[]")
"""Every pattern of math-verify needs a digit or an opening of LaTeX."""
_BOLD_NUMBER = re.compile(r"\*\*\s{0,4}\$?(-?\d[\d,]{0,20}(?:\.\d{1,15})?)\s{0,4}\.?\s{0,4}\*\*")
_PERCENT = re.compile(r"(?:%|\b(?:percent|per cent|pct))[\s.$]*$")
_IN_DOLLARS = re.compile(r"\$[^$]{1,300}\$")
_PROSE = re.compile(r"[A-Za-z]{2,}\s[A-Za-z]{2,}")
_TIGHT_EQUALS = re.compile(r"(?<=\d)=(?=[-\d])")  # math-verify reads the first 9 of "9+9=18"
_CONNECTED = re.compile(r"[^\n]{0,40}?(?:,|\band\b|\bor\b)[^\n]{0,20}")
MAX_CHARACTERS = 20_000
"""Characters from the end of a completion that math-verify reads: answers stand there."""


@dataclass(frozen=True, slots=True)
class GoldExpression:
    """A gold answer as the comparisons need it.

    Attributes:
        written: as it is given.
        respelled: in the spelling that math-verify reads.
        text: respelled, without its unit.
        quantity: the number with its unit; None for other mathematics.
    """

    written: str
    respelled: str
    text: str
    quantity: Quantity | None

    @classmethod
    def read(cls, gold: str) -> GoldExpression:
        gold = gold.replace("{,}", ",")
        respelled = respell(gold)
        # `$5` is five dollars, though read as a constant it is 5 with half of its delimiters.
        is_price = gold.lstrip("-\\ ").startswith("$") and not gold.rstrip().endswith("$")
        quantity = read_quantity(gold) if is_price or read_constant(respelled) is None else None
        return cls(gold, respelled, respelled if quantity is None else quantity.text, quantity)


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


def _read_answer(text: str, lenient: bool) -> FinalAnswer:
    """Read the final answer; without one, take the last number in bold, as chat models write it."""
    answer = final_answer(text, lenient)
    if answer.kind != "none" or not lenient:
        return answer
    bold = _BOLD_NUMBER.findall(text[-MAX_CHARACTERS:])
    return FinalAnswer(bold[-1], "bold") if bold else answer


def _text_for_algebra(answer: FinalAnswer, respelled: str, text: str) -> str:
    r"""Choose what math-verify reads: the marked answer alone as mathematics, else the end of the completion.

    `\boxed{1} and \boxed{2}` is one answer in two boxes, so math-verify sees both with the text around them.
    """
    if answer.kind == "tag" and _PROSE.search(strip_text_commands(respelled)):
        return respelled  # "The answer is 42": not mathematics as a whole
    is_mathematics = (
        answer.kind in ("tag", "boxed", "bold")
        or (answer.kind == "phrase" and _is_expression(respelled))
        or (answer.kind == "line" and _IN_DOLLARS.fullmatch(answer.text) is not None)
    )
    if is_mathematics and not _in_several_boxes(answer, text):
        return "\\boxed{" + _without_full_stop(respelled) + "}"
    return _TIGHT_EQUALS.sub("= ", strip_special_tokens(text)[-MAX_CHARACTERS:].replace("−", "-"))


def _is_expression(phrase: str) -> bool:
    """Whether what follows "the answer is" is one number as a whole."""
    return read_constant(phrase) is not None or read_quantity(phrase) is not None


def _in_several_boxes(answer: FinalAnswer, text: str) -> bool:
    if answer.kind != "boxed" or text.count("boxed{") + text.count("fbox{") == 1:
        return False
    text = strip_special_tokens(text[-2 * MAX_CHARACTERS :])
    boxes = marked_answers(text).candidates[-2:]
    return len(boxes) == 2 and _CONNECTED.fullmatch(text[boxes[0].end : boxes[1].start]) is not None


def _without_full_stop(answer: str) -> str:
    """Strip a full stop: math-verify reads nothing from `1.`."""
    return answer.rstrip(" .")


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when math-verify considers answer and gold answer equal.

    Raises:
        GoldError: when nothing can be read from the gold answer.
    """
    gold = GoldExpression.read(task.gold)
    grades: list[Grade | None] = []
    shown: list[str] = []
    for text in texts:
        found = _grade_or_respell(task, gold, text)
        grades.append(found if isinstance(found, Grade) else None)
        if isinstance(found, str):
            shown.append(found)
    if shown or not texts:
        verdicts = iter(_by_algebra(task, gold.text, shown))
        grades = [each or _grade_verdict(next(verdicts)) for each in grades]
    return [grade for grade in grades if grade is not None]


def _grade_verdict(verdict: Verdict) -> Grade:
    return Grade(float(verdict.equal), verdict.reason)


def _by_algebra(task: GradingTask, gold: str, shown: Sequence[str]) -> Sequence[Verdict]:
    """Ask math-verify for verdicts; without texts, only check the gold answer."""
    latex, pool = as_latex(gold), shared_pool()
    if shown:
        verdicts = pool.verify(latex, shown, task.time_limit, task.precision)
        problem, items = verdicts.gold_problem, verdicts.items
    else:
        problem, items = (
            "" if read_constant(gold) is not None else pool.find_gold_problem(latex, task.time_limit),
            (),
        )
    if problem:
        message = f"nothing can be read from the gold answer {task.gold[:200]!r}: {problem}"
        raise GoldError(message, "correct or drop the row, or choose another grader")
    return items


def _grade_or_respell(task: GradingTask, gold: GoldExpression, text: str) -> Grade | str:
    """Grade a completion by form or value, or return the text from which math-verify must decide."""
    answer = _read_answer(text, task.lenient)
    if answer.kind == "open":
        return Grade(0.0, "the last answer is cut off")
    if not task.lenient and answer.kind == "none":
        return Grade(0.0, "no answer found")
    if len(answer.text) > MAX_CHARACTERS:
        return Grade(0.0, f"an answer of more than {MAX_CHARACTERS} characters")
    if answer.kind == "none":
        shown = _text_for_algebra(answer, "", text)
        return shown if _READ_BY_ALGEBRA.search(shown) or not _is_number(gold) else Grade(0.0, "no answer found")
    simple = simplify_answer(answer.text, gold.written)
    respelled = as_interval(respell(simple), gold.respelled)
    verdict, comparable = _compare(gold, simple, respelled, task.precision)
    if verdict is None or _in_several_boxes(answer, text):
        return _text_for_algebra(answer, comparable, text)
    return Grade(float(verdict), "" if verdict else f"answered {answer.text[:80]}, gold is {task.gold[:80]}")


def _is_number(gold: GoldExpression) -> bool:
    return gold.quantity is not None or read_constant(gold.text) is not None


def _compare(gold: GoldExpression, answer: str, respelled: str, precision: int) -> tuple[bool | None, str]:
    """Compare without algebra.

    Returns:
        The verdict or None, and the answer as algebra should read it.
    """
    if gold.quantity is None or gold.quantity.is_bare:
        verdict = compare_without_algebra(gold.text, _without_full_stop(respelled), precision)
        if verdict is not None:
            return verdict, respelled
    if _PERCENT.search(answer) and gold.quantity is not None and not gold.quantity.is_bare:
        return False, respelled
    verdict = compare_notations(gold.respelled, respelled)
    if verdict is None:
        verdict = compare_written_forms(gold.written, answer)
    if verdict is not None:
        return verdict, respelled
    quantity = read_quantity(answer) or read_quantity(find_only_number(answer))
    if quantity is None:
        return (False, respelled) if says_no_number(answer) and _is_number(gold) else (None, respelled)
    if gold.quantity is not None:
        return compare_quantities(gold.quantity, quantity, precision), quantity.text
    return compare_without_algebra(gold.text, quantity.text, precision), quantity.text
