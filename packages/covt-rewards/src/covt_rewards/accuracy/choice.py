"""`choice`: multiple choice by letter or by the option's text.

Gold answer and completion are both read as an option's index. An option's own text takes precedence over its letter, so
that options which are letters themselves ("(c)", "(d)", "(a)") are matched by their text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.accuracy.text import normalize_text
from covt_rewards.answers import FinalAnswer, final_answer, strip_special_tokens
from covt_rewards.expressions.constants import Value, read_constant
from covt_rewards.expressions.latex import compact, strip_text_commands
from covt_rewards.expressions.notations import read_letters
from covt_rewards.expressions.respell import respell
from covt_rewards.reward_errors import GoldError

_LETTER = re.compile(r"\(?\s?([A-Za-z])\s?\)?\s?[.:,)]?")
_LETTER_THEN_TEXT = re.compile(r"\(?([A-Za-z])(?:\)|[.:])\s{0,4}(.*)", re.DOTALL)
_LETTER_IN_WORDS = re.compile(r"\(([A-Z])\)|\b(?:option|choice|answer)\s{1,4}\(?([A-Z])\b", re.IGNORECASE)
_WITH_UNIT = re.compile(
    r"(.{1,60}?)(?:\\[,;: ]|~|\s)*"
    r"(\^\{?\\circ\}?|degrees?|\\?%|percent|(?:[ckm]?m|in|ft|kg|g|mg|mL|L|s|sec|min|hr?)(?:\^\{?[23]\}?)?|[a-z]{4,})"
)
_NO_BRACES = str.maketrans("", "", "{}")


def read_option(answer: str, options: Sequence[str]) -> int | None:
    """Find the option that an answer names; None when it names none or more than one.

    Tried in order: the option's text (as text, then as LaTeX), its letter (`B`, `(b)`, `B.`, alone or on the first
    line), letter with text (`B. Snake`), a letter in words (`option B`, `(B) because …`), the only option whose text
    stands in the answer, the only option of the same value.

    Returns:
        The option's index, from 0.
    """
    plain = normalize_text(answer)
    texts = [normalize_text(option) for option in options]
    same = [i for i, text in enumerate(texts) if text and text == plain]
    if len(same) == 1:
        return same[0]
    small = compact(answer)
    same = [i for i, option in enumerate(options) if small and compact(option) == small]
    if len(same) == 1:
        return same[0]
    stripped = strip_text_commands(answer[:2000]).strip(" \t\r\n*$`\"'")
    letter = _LETTER.fullmatch(stripped) or _LETTER.fullmatch(stripped.partition("\n")[0].strip(" *"))
    if letter:
        return _index(letter.group(1), options)
    with_text = _LETTER_THEN_TEXT.fullmatch(stripped)
    if with_text:
        at = _index(with_text.group(1), options)
        named = [i for i, text in enumerate(texts) if text and text == normalize_text(with_text.group(2))]
        if at is not None and (not named or at in named):
            return at
        if named:
            return None  # letter and text name different options
    in_words = {_index(a or b, options) for a, b in _LETTER_IN_WORDS.findall(stripped)} - {None}
    if len(in_words) == 1:
        return in_words.pop()
    inside = [i for i, text in enumerate(texts) if len(text) > 1 and _stands_in(text, plain)]
    longest = [i for i in inside if not any(i != j and texts[i] in texts[j] for j in inside)]
    return longest[0] if len(longest) == 1 else _by_value(answer, options)


def _by_value(answer: str, options: Sequence[str]) -> int | None:
    r"""Find the only option of the same value in another spelling: `\frac{10}{3}` for `10 / 3`, `45` for `45°`."""
    value, unit = _measure(answer)
    if value is None:
        return None
    same = [
        i
        for i, (v, u) in enumerate(map(_measure, options))
        if v is not None and math.isclose(v, value, rel_tol=1e-9) and (u == unit or not (u and unit))
    ]
    return same[0] if len(same) == 1 else None


def _measure(text: str) -> tuple[Value | None, str]:
    """Read a constant and the unit behind it, either may be missing: `45^\\circ` is 45 degrees, `45` has no unit."""
    plain = respell(strip_text_commands(text[:200])).strip(" $")
    value = read_constant(plain)
    if value is not None:
        return value, ""
    match = _WITH_UNIT.fullmatch(plain)
    if match is None:
        return None, ""
    unit = match.group(2).translate(_NO_BRACES)
    return read_constant(match.group(1)), "°" if unit in ("^\\circ", "degree", "degrees") else unit


def _index(letter: str, options: Sequence[str]) -> int | None:
    at = ord(letter.upper()) - ord("A")
    return at if 0 <= at < len(options) else None


def _stands_in(needle: str, text: str) -> bool:
    """Whether `needle` occurs in `text` as whole words."""
    at = text.find(needle)
    while at >= 0:
        end = at + len(needle)
        if not (text[at - 1 : at].isalnum() or text[end : end + 1].isalnum()):
            return True
        at = text.find(needle, at + 1)
    return False


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when the answer names the gold option; of several gold options, all and no other.

    Raises:
        GoldError: when the gold answer names no option.
    """
    options = task.options
    if not options:
        # Without options, only letters can be compared.
        options = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    gold = read_option(task.gold, options)
    several = read_letters(task.gold) if gold is None else None
    if several is not None and all(_index(letter, options) is not None for letter in several):
        return [_grade_several(several, final_answer(text, task.lenient)) for text in texts]
    if gold is None:
        message = f"the gold answer {task.gold!r} names no option of {list(task.options)}"
        raise GoldError(message, "give a letter or an option's text")
    # A gold answer `\boxed{B}` without options asks for a marked letter: an unmarked "B" may mean anything.
    lenient = task.lenient and (bool(task.options) or not task.marked)
    return [_grade_one(text, gold, options, lenient) for text in texts]


def _grade_one(text: str, gold: int, options: Sequence[str], lenient: bool) -> Grade:
    answer = final_answer(text, lenient)
    # A long text without an answer may still name exactly one option.
    said = answer.text if answer.kind != "none" else strip_special_tokens(text)[-2000:] if lenient else ""
    chosen = read_option(said, options) if said else None
    if chosen == gold:
        return Grade(1.0)
    if chosen is not None:
        return Grade(0.0, f"chose {options[chosen][:80]!r}, gold is {options[gold][:80]!r}")
    if said:
        return Grade(0.0, f"names no option: {said[:80]!r}")
    return Grade(0.0, "no answer found" if lenient else "no marked answer found")


def _grade_several(gold: frozenset[str], answer: FinalAnswer) -> Grade:
    """Grade a question with several right options: the answer must name all of them by letter, and no other."""
    said = read_letters(answer.text) or frozenset(re.findall(r"\(([A-J])\)", answer.text))
    if said == gold:
        return Grade(1.0)
    named = ", ".join(sorted(said))
    return Grade(0.0, f"chose {named}, gold is {', '.join(sorted(gold))}" if said else "names no options")
