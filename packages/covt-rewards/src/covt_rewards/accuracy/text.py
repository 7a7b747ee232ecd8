"""`text`: equal up to case, spaces, Unicode form, and punctuation around the answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.answer_sentences import strip_sentence
from covt_rewards.answers import final_answer
from covt_rewards.expressions.characters import fold_characters
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.number_words import read_number_words
from covt_rewards.reward_errors import GoldError

_AROUND = " \t\r\n.,;:!?\"'`*$«»“”‘’。，、"
_ARTICLE = re.compile(r"^(?:an?|the) ")
_VERDICTS = {
    **dict.fromkeys(("yes", "true", "correct", "是", "是的", "对", "正确"), "yes"),
    **dict.fromkeys(("no", "false", "incorrect", "否", "不是", "不", "不对", "错", "错误"), "no"),
}
_GOLD_VERDICTS = ("yes", "no", "true", "false", "是", "否", "是的", "不是")
_SPELLINGS = (
    ("grey", "gray"),
    ("colour", "color"),
    ("centre", "center"),
    ("metre", "meter"),
    ("litre", "liter"),
    ("aluminium", "aluminum"),
    ("neighbour", "neighbor"),
)
_MARKUP = re.compile(r"</?(?:b|i|u|em|strong)>|^\s*_+(?=[^\W_])|(?<=[^\W_])_+\s*$")
_SUBSCRIPT = re.compile(r"_\{?(\w{1,6})\}?|(?<=[A-Za-z\d)])\{(\d{1,3})\}")
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[\s'.-]+(?=[^\W\d_])")
_AFTER_LETTERS = re.compile(r"(?<=[^\W\d_])\.(?=\s|$)")
_ORDINALS = {
    word: f"{number}{'st' if number == 1 else 'nd' if number == 2 else 'rd' if number == 3 else 'th'}"
    for number, word in enumerate(
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], start=1
    )
}
MAX_CHARACTERS = 10_000


def normalize_text(text: str) -> str:
    """Normalize to NFKC, case-folded, single-spaced text without LaTeX text commands and surrounding punctuation.

    A sign or bracket inside the answer stays, so `-5` and `5` differ.
    """
    text = strip_text_commands(text[:MAX_CHARACTERS])
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(text.split()).strip(_AROUND)


def compare_texts(gold: str, answer: str) -> bool:
    """Compare two normalized texts: `ice-cream` is `ice cream`, `H_2O` is `H2O`, `5-3` is not `53`.

    For a gold yes or no, only the answer's first word counts ("Yes, it is").
    """
    if gold in _GOLD_VERDICTS:
        first = re.match(r"\w+", answer)
        return first is not None and _VERDICTS.get(first.group()) == _VERDICTS[gold]
    if answer == gold or _loosen(answer) == _loosen(gold):
        return True
    a, b = read_number_words(gold), read_number_words(answer)
    if a is not None or b is not None:
        return _as_number(gold) is not None and _as_number(gold) == _as_number(answer)
    return False


def _as_number(text: str) -> object:
    return read_number_words(text) if not text.isdecimal() else int(text) if len(text) < 100 else None


def _loosen(text: str) -> str:
    """Remove what spellings of the same words differ by: an article, accents, hyphens, dots behind abbreviations."""
    text = fold_characters(text[:MAX_CHARACTERS])
    text = _ARTICLE.sub("", _SUBSCRIPT.sub(r"\1\2", text.replace("\\", "")), count=1)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(each for each in decomposed if unicodedata.category(each) != "Mn").replace("×", "x")
    text = re.sub(r"(?<=\d)\s*([-/:x])\s*(?=\d)", r"\1", text)
    text = _BETWEEN_LETTERS.sub("", _AFTER_LETTERS.sub("", text))
    for other, usual in _SPELLINGS:
        text = text.replace(other, usual)
    return _ORDINALS.get(text, text)


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
        if answer.kind in ("none", "open"):
            grades.append(Grade(0.0, "no answer found"))
        elif _is_same(gold, answer.text):
            grades.append(Grade(1.0))
        else:
            grades.append(Grade(0.0, f"answered {answer.text[:80]!r}, gold is {task.gold[:80]!r}"))
    return grades


def _is_same(gold: str, answer: str) -> bool:
    plain = normalize_text(_MARKUP.sub("", answer))
    if compare_texts(gold, plain):
        return True
    inner = normalize_text(strip_sentence(plain))
    if gold in _GOLD_VERDICTS and inner not in _VERDICTS:
        return False  # "There is no ball" says neither yes nor no
    return inner != plain and compare_texts(gold, inner)
