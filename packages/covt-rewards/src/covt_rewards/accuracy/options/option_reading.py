"""The options that an answer names, by text, by letter, by both, or in a sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from covt_rewards.accuracy.options.option_letters import read_letters
from covt_rewards.accuracy.options.option_texts import OptionTexts, read_option_texts
from covt_rewards.accuracy.options.option_values import find_same_value
from covt_rewards.answer_sentences import NEGATIONS, find_statements, strip_sentence
from covt_rewards.expressions.characters import fold_characters, strip_markup

MAX_CHARACTERS = 2_000
Named = frozenset[int]
NOTHING: Named = frozenset()

_LETTER_THEN_TEXT = re.compile(
    r"(?:(?:option|choice|answer)\s{1,3})?[(\[]?\s?([A-Za-z])\s?(?:[)\]]\s?[.:,]?|[.:,;]|\s-(?=\s)|\s(?=\())\s{0,4}(.*)",
    re.DOTALL | re.IGNORECASE,
)
_LETTER_SPACE_TEXT = re.compile(r"([A-Z])\s{1,4}(\S.*)", re.DOTALL)
_REASON = re.compile(r"(?:because|since|as|due|given|for|where|which|from|based)(?![a-z])", re.IGNORECASE)
_STARTS_WITH_LETTER = re.compile(r"[\s*#>]{0,4}[(\[]?[A-Z][)\].:]")
_MORE_LETTERS = re.compile(r"\s{0,3}(?:,|/|;|&|or|and|,?\snot)?\s{0,3}(?:option\s)?[(\[]?[A-Z][)\]]?(?![A-Za-z'])")
_IN_WORDS = re.compile(r"[(\[]([A-Z])[)\]]|\b(?:option|choice|answer)\s{1,4}[(\[]?([A-Z])\b", re.IGNORECASE)
_DENIED = re.compile(r"[\s,;(]{0,3}(?:and )?not\s(?:option\s)?[(\[]?[A-Z][)\]]?\.?[\s)]{0,3}", re.IGNORECASE)
_IS_WRONG = re.compile(r"[\s(,]{0,3}(?:is\s)?(?:wrong|incorrect|false|not\s(?:right|correct))(?![a-z])", re.IGNORECASE)
_OTHER = re.compile(
    r"(?:\bit(?:'s| is| must be)|\banswer is|\bmaybe|\bperhaps|\bpossibly)\s[(\[]?([A-Z])\b(?! [a-z])"
    r"|[(\[]([A-Z])[)\]]",
    re.IGNORECASE,
)
_SEGMENTS = re.compile(r"\s*(?:[;,\n&+]|\band\b)\s*")
_ENUMERATES = re.compile(r"\b(?:or|either|maybe|perhaps|possibly|both)\b", re.IGNORECASE)


def read_options(answer: str, options: Sequence[str]) -> Named:
    """Find the options that an answer names.

    Tried in order: an option's text, its letter or letters, letter with text, a sentence around them, the only option
    whose text stands in the answer, the only option of the same value, several options by their texts.

    Args:
        answer: a marked answer, a line or a sentence.
        options: the texts, with or without letters of their own.

    Returns:
        Indices from 0: one, several where the answer gives several, or none where it names no option or is unclear.
        All options with the same text count as one.
    """
    return _read_cached(answer[:MAX_CHARACTERS], tuple(options))


@lru_cache(maxsize=512)
def _read_cached(answer: str, options: tuple[str, ...]) -> Named:
    """Read an answer; a gold answer is read for every group and once more to choose its grader."""
    texts = read_option_texts(options)
    named = _read(answer, texts)
    return texts.find_duplicates(next(iter(named))) if len(named) == 1 else named


def _read(answer: str, texts: OptionTexts) -> Named:
    equal = texts.find_equal(answer)
    if equal is not None:
        return frozenset((equal,))
    plain = strip_markup(fold_characters(answer)).strip("\"'")
    for text in dict.fromkeys((plain, strip_sentence(plain))):
        named = _read_letters(text, texts)
        if named is not None:
            return named
    equal = texts.find_equal(strip_sentence(plain))
    if equal is not None:
        return frozenset((equal,))
    for statement in reversed(find_statements(plain)):
        if statement and statement != plain and (named := _read_letters(strip_markup(statement), texts)):
            return named
    in_words = {_index(a or b, texts) for a, b in _IN_WORDS.findall(plain)} - {None}
    if len(in_words) == 1 and not NEGATIONS.search(plain.lower()) and not _ENUMERATES.search(plain):
        return frozenset(each for each in in_words if each is not None)
    inside = texts.find_inside(answer) if not _ENUMERATES.search(plain) else None
    if inside is None:
        inside = find_same_value(answer, texts.raw)
    if inside is None:
        inside = find_same_value(strip_sentence(plain), texts.raw)
    return frozenset((inside,)) if inside is not None else _read_several_texts(plain, texts)


def _read_letters(text: str, texts: OptionTexts) -> Named | None:
    """Read letters, alone or with the option's text; None when the text begins with no letter of an option."""
    first = text.partition("\n")[0].strip(" *")
    letters = read_letters(text) or (read_letters(first) if not read_letters(text.strip()[-12:]) else ())
    if letters:
        indices = [_index(letter, texts) for letter in letters]
        return NOTHING if None in indices else frozenset(each for each in indices if each is not None)
    if match := _LETTER_THEN_TEXT.fullmatch(text):
        letter, rest = match.groups()
        if letter.islower() and not (text.startswith(("(", "[")) or text[1:2] in ".):"):
            return None
        return _check_letter(letter, rest, texts)
    if match := _LETTER_SPACE_TEXT.fullmatch(text):
        letter, rest = match.groups()
        at = _index(letter, texts)
        if at is None:
            return None
        if _DENIED.fullmatch(rest):
            return frozenset((at,))
        if _MORE_LETTERS.match(rest) and not _REASON.match(rest):
            return None
        if _REASON.match(rest) or (texts.find_equal(rest) == at and letter not in "AI"):
            return frozenset((at,))
    return None


def _check_letter(letter: str, rest: str, texts: OptionTexts) -> Named | None:
    """Take the letter unless the text behind it is another option's or gives further letters."""
    at = _index(letter, texts)
    if at is None:
        return None
    if not rest.strip():
        return frozenset((at,))
    if _DENIED.fullmatch(rest):
        return frozenset((at,))
    others = read_letters(rest)
    if texts.find_equal(rest) == at:
        return frozenset((at,))
    if _IS_WRONG.match(rest) or (len(others) == 1 and _index(others[0], texts) not in (None, at)):
        return NOTHING
    if any(_index(a or b, texts) not in (None, at) for a, b in _OTHER.findall(rest)):
        return _read_several_texts(f"{letter}. {rest}", texts)
    rest = rest.strip().strip("()")
    equal = texts.find_equal(rest)
    value = equal if equal is not None else find_same_value(rest, texts.raw)
    if value is not None:
        return frozenset((at,)) if texts.plain[value] == texts.plain[at] else NOTHING
    if _MORE_LETTERS.match(rest) and not re.match(r"\s{0,3}[AI]\s[a-z]", rest):
        return _read_several_texts(f"{letter}. {rest}", texts)
    several = _read_several_texts(f"{letter}. {rest}", texts)
    return several if len(several) > 1 else frozenset((at,))


def _read_several_texts(text: str, texts: OptionTexts) -> Named:
    """Read `cat and horse`, `A. cat; C. horse`: every segment must name one option."""
    segments = [segment for segment in _SEGMENTS.split(text.strip(" .")) if segment]
    if not 2 <= len(segments) <= 10:
        return NOTHING
    named: set[int] = set()
    for segment in segments:
        equal = texts.find_equal(segment)
        if equal is None:
            match = _LETTER_THEN_TEXT.fullmatch(segment)
            letters = read_letters(segment) if match is None else (match.group(1).upper(),)
            at = _index(letters[0], texts) if len(letters) == 1 else None
            rest = match.group(2).strip() if match is not None else ""
            equal = at if at is not None and (not rest or texts.find_equal(rest) == at) else None
        if equal is None:
            return NOTHING
        named.add(equal)
    return frozenset(named)


def read_prose(text: str, options: Sequence[str]) -> Named:
    """Find the option that prose settles on: in its last line, its last statement, or as the only one that it names.

    Args:
        text: the end of a completion.
        options: the texts.
    """
    texts = read_option_texts(tuple(options))
    tail = text.rpartition("</think>")[2][-MAX_CHARACTERS:].strip()
    lines = [line for line in tail.splitlines() if line.strip()]
    if not lines:
        return NOTHING
    last = lines[-1]
    if len(last) <= 100 and (named := _read_letters(strip_markup(fold_characters(last)), texts)):
        return named
    for statement in reversed(find_statements(fold_characters(tail))):
        named = read_options(_first_sentence(statement), options)
        if named:
            return named
    first = lines[0]
    if (
        len(first) <= 100
        and _STARTS_WITH_LETTER.match(first)
        and (named := _read_letters(strip_markup(fold_characters(first)), texts) or NOTHING)
    ):
        return named
    sentences = re.split(r"(?<=[.!?。！？])\s+", last)
    if named := read_options(sentences[-1], options):
        return named
    inside = texts.find_inside(tail)
    if inside is not None:
        return texts.find_duplicates(inside)
    return read_options(tail, options) if len(lines) > 1 or len(sentences) > 1 else NOTHING


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[A-Za-z)\]*]{2})[.!?;](?=\s|$)|。", text, maxsplit=1)[0] if len(text) > 3 else text


def _index(letter: str, texts: OptionTexts) -> int | None:
    at = ord(letter.upper()) - ord("A")
    return at if 0 <= at < len(texts.raw) else None
