"""`choice`: multiple choice by letter or by the option's text.

Gold answer and completion are both read as options. An option's own text takes precedence over its letter, so that
options which are letters themselves ("(c)", "(d)", "(a)") are matched by their text.
"""

from __future__ import annotations

from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.accuracy.options.option_letters import read_letters
from covt_rewards.accuracy.options.option_reading import NOTHING, Named, read_options, read_prose
from covt_rewards.answers import final_answer, strip_special_tokens, text_after_answer
from covt_rewards.reward_errors import GoldError

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""Options of a question whose options are unknown: only letters can be compared."""


def read_gold(task: GradingTask) -> Named:
    """Read the gold options; raises `GoldError` when the gold answer names none."""
    named = read_options(task.gold, task.options or LETTERS)
    if named:
        return named
    letters = ", ".join(read_letters(task.gold))
    beyond = f": there is no option {letters}" if letters else ""
    message = f"the gold answer {task.gold[:200]!r} names no option of {list(task.options)}{beyond}"
    raise GoldError(message, "give a letter or an option's text")


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when the answer names the gold option; of several gold options, all and no other.

    Raises:
        GoldError: when the gold answer names no option.
    """
    options = task.options or LETTERS
    gold = read_gold(task)
    # A gold answer `\\boxed{B}` without options asks for a marked letter: an unmarked "B" may mean anything.
    lenient = task.lenient and (bool(task.options) or not task.marked)
    return [_grade(text, gold, options, lenient) for text in texts]


def _grade(text: str, gold: Named, options: tuple[str, ...], lenient: bool) -> Grade:
    answer = final_answer(text, lenient)
    chosen = read_options(answer.text, options) if answer.text else NOTHING
    if not chosen and lenient:
        if answer.kind in ("none", "phrase", "line"):
            chosen = read_prose(strip_special_tokens(text), options)
        else:
            # A box that names no option may hold a formula; the letter then stands behind it.
            chosen = read_prose(text_after_answer(text), options)
    if chosen == gold:
        return Grade(1.0)
    if chosen:
        return Grade(0.0, f"chose {_show(chosen, options)}, gold is {_show(gold, options)}")
    said = answer.text or (text.strip()[-80:] if lenient else "")
    if said:
        return Grade(0.0, f"names no option: {said[:80]!r}")
    return Grade(0.0, "no answer found" if lenient else "no marked answer found")


def _show(named: Named, options: tuple[str, ...]) -> str:
    return ", ".join(repr(options[i][:80]) for i in sorted(named))
