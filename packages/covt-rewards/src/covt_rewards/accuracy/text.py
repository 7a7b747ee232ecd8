"""`text`: equal up to case, spaces, Unicode form, and punctuation around the answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.answers import final_answer
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.reward_errors import GoldError

_AROUND = " \t\r\n.,;:!?\"'`*$«»“”‘’。，、"
_ARTICLE = re.compile(r"^(?:an?|the) ")
_VERDICTS = ("yes", "no", "true", "false")
MAX_CHARACTERS = 10_000


def normalize_text(text: str) -> str:
    """Normalize to NFKC, case-folded, single-spaced text without LaTeX text commands and surrounding punctuation.

    A sign or bracket inside the answer stays, so `-5` and `5` differ.
    """
    text = strip_text_commands(text[:MAX_CHARACTERS])
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(_AROUND)


def _same(gold: str, answer: str) -> bool:
    """Compare up to a leading article. For a gold yes or no, only the answer's first word counts ("Yes, it is")."""
    if gold in _VERDICTS:
        first = re.match(r"\w+", answer)
        return first is not None and first.group() == gold
    return answer == gold or _ARTICLE.sub("", answer, count=1) == _ARTICLE.sub("", gold, count=1)


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give 1 when the normalized answer equals the normalized gold answer.

    Raises:
        GoldError: when the gold answer is empty.
    """
    gold = normalize_text(task.gold)
    if not gold:
        raise GoldError(f"the gold answer {task.gold!r} is empty text", "correct or drop the row")
    grades: list[Grade] = []
    for text in texts:
        answer = final_answer(text, task.lenient)
        if answer.kind == "none":
            grades.append(Grade(0.0, "no answer found"))
        elif _same(gold, normalize_text(answer.text)):
            grades.append(Grade(1.0))
        else:
            grades.append(Grade(0.0, f"answered {answer.text[:80]!r}, gold is {task.gold[:80]!r}"))
    return grades
