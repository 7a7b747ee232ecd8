"""Numbers written in words, English and Chinese: `twenty-one`, `one half`, `minus 3`, `2.5 million`, `四分之三`."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARACTERS = 100

_ONES = {
    word: number
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ]
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )
}
_MAGNITUDES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MAGNITUDES = {**_MAGNITUDES, "hundred": 100, "dozen": 12, "lakh": 10**5, "crore": 10**7, "万": 10**4, "亿": 10**8}
"""Words behind a number that multiply it."""

_PARTS = {
    "half": 2,
    "halve": 2,
    "third": 3,
    "quarter": 4,
    "fourth": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
    "hundredth": 100,
}
_SCALED = re.compile(
    r"([+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d{1,15}(?:\.\d{1,9})?)\s?(" + "|".join(MAGNITUDES) + r")s?",
    re.IGNORECASE,
)
_SIGNED = re.compile(r"(?:minus|negative|负)\s?(.{1,90})", re.IGNORECASE)
_CHINESE_DIGITS = {digit: number for number, digit in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE = re.compile("[零〇一二两三四五六七八九十百千万亿点]{1,20}")


def read_number_words(text: str) -> Fraction | None:
    """Read a number written in words, or with a word for its sign or magnitude; None for anything else."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.strip(" .").casefold()
    if match := _SIGNED.fullmatch(text):
        rest = match.group(1)
        value = (
            Fraction(rest)
            if re.fullmatch(r"\d{1,15}(?:\.\d{1,9}|/\d{1,9})?", rest) and not rest.endswith("/0")
            else read_number_words(rest)
        )
        return None if value is None or value < 0 else -value
    if match := _SCALED.fullmatch(text):
        return Fraction(match.group(1).replace(",", "")) * MAGNITUDES[match.group(2)]
    if not text.isascii():
        return _read_chinese(text)
    words = text.replace("-", " ").split()
    return _read_with_fraction(words) if words and all(word.isalpha() for word in words) else None


def _read_with_fraction(words: list[str]) -> Fraction | None:
    """Read `two`, `three quarters`, `one and a half`, `half`."""
    last = words[-1]
    denominator = _PARTS.get(last) or _PARTS.get(last.removesuffix("s"))
    if denominator is None:
        number = _read_cardinal(words)
        return None if number is None else Fraction(number)
    if "and" in words and words.index("and") < len(words) - 1:
        at = len(words) - 1 - words[::-1].index("and")
        whole, part = _read_cardinal(words[:at]), _read_with_fraction(words[at + 1 :])
        if whole is not None and part is not None and part < 1:
            return whole + part
    numerator = 1 if words[:-1] in ([], ["a"], ["an"]) else _read_cardinal(words[:-1])
    if words[:-1] == [] and denominator != 2:
        return None  # `third` is an ordinal
    return None if numerator is None else Fraction(numerator, denominator)


def _read_cardinal(words: list[str]) -> int | None:
    """Read `two hundred and five thousand`; every word must be part of the number."""
    if words == ["a", "dozen"]:
        return 12
    total, group, last = 0, 0, ""
    for i, word in enumerate(words):
        if word in ("a", "an") and i == 0 and len(words) > 1:
            group, last = 1, "ones"
        elif word == "and" and last == "hundred" and i + 1 < len(words):
            continue
        elif (word in _ONES and last in ("", "hundred", "magnitude")) or (
            word in _ONES and last == "tens" and 0 < _ONES[word] < 10
        ):
            group, last = group + _ONES[word], "ones"
        elif word in _TENS and last in ("", "hundred", "magnitude"):
            group, last = group + _TENS[word], "tens"
        elif word == "hundred" and last in ("ones", "tens") and group < 100:
            group, last = group * 100, "hundred"
        elif (
            word in _MAGNITUDES
            and last
            and last != "magnitude"
            and (not total or total % (_MAGNITUDES[word] * 1000) == 0)
        ):
            total, group, last = total + group * _MAGNITUDES[word], 0, "magnitude"
        else:
            return None
    return total + group if last and words[-1] not in ("a", "an") else None


def _read_chinese(text: str) -> Fraction | None:
    """Read `十二`, `四分之三` (three quarters), `百分之二十五` (25 %) and `三点五`."""
    if "分之" in text:
        below, _, above = text.partition("分之")
        a, b = _read_chinese(above), _read_chinese(below)
        return a / b if a is not None and b else None
    if not _CHINESE.fullmatch(text):
        return None
    whole, point, decimals = text.partition("点")
    number = _read_chinese_whole(whole)
    if number is None or not point:
        return None if number is None else Fraction(number)
    if not decimals or not all(digit in _CHINESE_DIGITS for digit in decimals):
        return None
    return number + Fraction(int("".join(str(_CHINESE_DIGITS[digit]) for digit in decimals)), 10 ** len(decimals))


def _read_chinese_whole(text: str) -> int | None:
    for sign, size in (("亿", 10**8), ("万", 10**4)):
        if sign in text:
            high, _, low = text.partition(sign)
            a, b = _read_chinese_whole(high), _read_chinese_whole(low) if low else 0
            return None if a is None or b is None else a * size + b
    total, digit = 0, None
    for character in text:
        if character in _CHINESE_DIGITS:
            if digit not in (None, 0):
                return None
            digit = _CHINESE_DIGITS[character]
        elif character in _CHINESE_UNITS:
            total += (1 if digit is None else digit) * _CHINESE_UNITS[character]
            digit = None
        else:
            return None
    return total + (digit or 0) if text else None
