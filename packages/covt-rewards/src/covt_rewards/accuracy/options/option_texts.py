r"""Options by their texts: exactly, up to spelling, as the only one that stands in an answer, or by its value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from covt_rewards.accuracy.text import normalize_text
from covt_rewards.answer_sentences import NEGATIONS
from covt_rewards.expressions.latex import compact

_OWN_LETTER = re.compile(r"\s*[(\[]?([A-Ja-j])(?:[)\]]\s{0,3}[.:]?|[.:、．])\s{0,4}(\S.*)", re.DOTALL)
_NAME_IS = re.compile(r"^[A-Za-z](?:\([a-z]\))?=(?=.)")
_NONE = re.compile(r"none of (?:the )?(?:above|these|them|those|other options|options|choices|others)")
_ALL = re.compile(r"all of (?:the )?(?:above|these|them|those|options|choices)")
_VERDICTS = {"true": "yes", "false": "no", "correct": "yes", "incorrect": "no", "right": "yes", "wrong": "no"}
_NOT_THIS = re.compile(r"(?:[,;]| and| but)\s(?:and |but )?not (?:an? |the )?[^,.;]{1,80}")
_LAST_WORDS = re.compile(r"(?: (?:of|to|the|from|than|side))+$")


@dataclass(frozen=True, slots=True)
class OptionTexts:
    """The options as answers are compared with them.

    Attributes:
        raw: the texts, without a letter of their own (`A. cat`) and without a sentence behind the last one.
        plain: normalized texts.
        small: as LaTeX without delimiters and spaces.
        canonical: without articles, names and other words for the same.
    """

    raw: tuple[str, ...]
    plain: tuple[str, ...]
    small: tuple[str, ...]
    canonical: tuple[str, ...]

    def find_equal(self, answer: str) -> int | None:
        """Find the only option with this text, up to case, spaces, articles and LaTeX spelling."""
        plain = normalize_text(answer)
        if not plain:
            return None
        if plain in self.plain:
            return self.plain.index(plain)
        for key, texts in (
            (compact(answer), self.small),
            (_canonical(plain), self.canonical),
        ):
            same = [i for i, text in enumerate(texts) if text and text == key]
            if len(same) == 1:
                return same[0]
        return None

    def find_duplicates(self, index: int) -> frozenset[int]:
        """All options with the same text as this one; options with duplicate texts are equally right."""
        text = self.plain[index]
        return frozenset(i for i, each in enumerate(self.plain) if text and each == text) | {index}

    def find_inside(self, answer: str) -> int | None:
        """Find the only option whose text stands in the answer as whole words and is not denied there."""
        plain = _NOT_THIS.sub("", normalize_text(answer))
        inside = [i for i, text in enumerate(self.plain) if len(text) > 1 and _stands_in(text, plain)]
        longest = [i for i in inside if not any(i != j and self.plain[i] in self.plain[j] for j in inside)]
        if len(longest) != 1:
            return None
        text = self.plain[longest[0]]
        if text in ("yes", "no", "true", "false") and not re.match(rf"{text}(?!\w)", plain):
            return None
        return None if NEGATIONS.search(plain.replace(text, " ")) else longest[0]


def _canonical(plain: str) -> str:
    plain = re.sub(r"^(?:an?|the) ", "", plain)
    if _NONE.fullmatch(plain) or plain in ("none", "neither"):
        return "none of the above"
    if _ALL.fullmatch(plain):
        return "all of the above"
    plain = _NAME_IS.sub("", plain.replace(" ", "")) if "=" in plain else plain
    return _LAST_WORDS.sub("", _VERDICTS.get(plain, plain))


def _continues(neighbor: str) -> bool:
    """Whether a character beside a word makes it another one: `cat-like`, `14 cm^2`, `-14`."""
    return neighbor.isalnum() or (neighbor != "" and neighbor in "-^_/%°")


def _stands_in(needle: str, text: str) -> bool:
    """Whether `needle` occurs in `text` as whole words; Chinese has no spaces around them."""
    at = text.find(needle)
    while at >= 0:
        end = at + len(needle)
        if not needle.isascii() or not (_continues(text[at - 1 : at]) or _continues(text[end : end + 1])):
            return True
        at = text.find(needle, at + 1)
    return False


@lru_cache(maxsize=256)
def read_option_texts(options: tuple[str, ...]) -> OptionTexts:
    """Prepare the texts of a question's options."""
    raw = _strip_own_letters(options)
    if raw and "\n" in raw[-1] and not any("\n" in text for text in raw[:-1]):
        raw = (*raw[:-1], raw[-1].strip().partition("\n")[0])
    plain = tuple(map(normalize_text, raw))
    return OptionTexts(raw, plain, tuple(map(compact, raw)), tuple(map(_canonical, plain)))


def _strip_own_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Remove `A.`, `B.`, … where every option carries its own letter."""
    matches = [_OWN_LETTER.fullmatch(option) for option in options]
    texts: list[str] = []
    for number, match in enumerate(matches):
        if match is None or match.group(1).upper() != chr(ord("A") + number):
            return tuple(options)
        texts.append(match.group(2))
    return tuple(texts)
