r"""`comt`: judges as the public evaluation of ILVR does on CoMT, so that numbers can be compared with its papers.

It reads the last `\boxed{…}` without braces inside, else what follows the last "final answer", else the last "answer:",
else the only word among yes, no, true, false, a and b, else the first line. Marks around the answer are dropped,
numbers are compared as numbers, and a, true and yes are equal, as are b, false and no. Nothing else of an answer is
understood.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.answers import MAX_TAIL_CHARACTERS, strip_special_tokens
from covt_rewards.reward_errors import GoldError

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKED = (
    re.compile(r"final\s{0,8}answer\s{0,8}(?:is)?\s{0,8}[:：]?\s{0,8}(\S[^\n\r]*)", re.IGNORECASE),
    re.compile(r"answer\s{0,8}(?:is)?\s{0,8}[:：]\s{0,8}(\S[^\n\r]*)", re.IGNORECASE),
)
_WORD = re.compile(r"[A-Za-z]+")
_SPACES = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
_BEFORE = _SPACES + "*_`'\"“‘([{【"
_BEHIND = _SPACES + "*_`'\"”’)]}】.。,，!！?？;；:："
_VERDICTS = dict.fromkeys(("yes", "true", "a"), "yes") | dict.fromkeys(("no", "false", "b"), "no")


def read_answer(text: str) -> str:
    """Return the answer that ILVR's evaluation reads from a completion; empty when there is none."""
    plain = strip_special_tokens(text[-MAX_TAIL_CHARACTERS:]).strip()
    boxes = _BOX.findall(plain)
    if boxes:
        return _clean(boxes[-1])
    for pattern in _MARKED:
        found = pattern.findall(plain)
        if found and (answer := _clean(found[-1])):
            return answer
    verdicts = [word for word in _WORD.findall(plain.lower()) if word in _VERDICTS]
    return verdicts[0] if len(verdicts) == 1 else _clean(plain)


def normalize_answer(answer: str) -> str:
    """Return a spelling that is equal for equal answers: `2`, `2.0` and `**2**`; `A`, `True` and `yes`."""
    plain = _clean(answer).lower()
    if plain in _VERDICTS:
        return _VERDICTS[plain]
    try:
        number = float(plain.replace(",", ""))
        return str(int(number)) if number == int(number) else str(number)
    except (ValueError, OverflowError):  # no number, or an infinite one
        return plain


def _clean(text: str) -> str:
    """Return the first line without quotes, brackets, Markdown and punctuation around it."""
    first = re.split(r"[\n\r]", text.strip(), maxsplit=1)[0]
    return first.lstrip(_BEFORE).rstrip(_BEHIND).strip()


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when the normalized answer equals the normalized gold answer.

    Raises:
        GoldError: when the gold answer is empty.
    """
    gold = normalize_answer(task.gold)
    if not gold:
        raise GoldError(f"the gold answer {task.gold!r} is empty", "correct or drop the row")
    grades: list[Grade] = []
    for answer in map(read_answer, texts):
        right = normalize_answer(answer) == gold
        grades.append(Grade(1.0) if right else Grade(0.0, f"answered {answer[:80]!r}, gold is {gold[:80]!r}"))
    return grades
