"""Gold answers that are labels or words and never algebra: dates, ranges, versions, addresses, `B3`, `H2O`, `C++`.

Algebra would take `2024-01-05` for 2018 and `192.168.0.1` for a decimal number, so that a wrong answer could be right.
"""

from __future__ import annotations

import re

from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.number_words import read_number_words

MAX_CHARACTERS = 200

_MONTHS = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]{0,7}\.?"
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}|\d{4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|\d{1,2}月\d{1,2}日"
    rf"|{_MONTHS} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?|\d{{1,2}}(?:st|nd|rd|th)? (?:of )?{_MONTHS}(?:,? \d{{4}})?"
    rf"|{_MONTHS},? \d{{4}}",
    re.IGNORECASE,
)
_RANGE = re.compile(r"[+(]?\d{1,5}\)?-\d{1,5}(?:-\d{1,5}){0,4}|\d{1,5}\s?[–—]\s?\d{1,5}")
_VERSION = re.compile(
    r"[vV]?\d{1,5}(?:\.\d{1,5}){2,}(?:[/:]\d{1,5})?|[vV]\d{1,5}(?:\.\d{1,5})?|[\da-f]{1,4}(?::[\da-f]{0,4}){4,7}"
)
_ADDRESS = re.compile(
    r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}|(?:https?://|www\.)\S{1,190}|(?=[\da-f:]{0,37}::)[\da-f:]{2,39}"
    r"|\+\d{1,3}(?:[ -]\(?\d{1,5}\)?){2,5}|\(\d{2,5}\)[ -]?\d{2,5}[ -]\d{2,6}|\d{3} \d{4}|isbn[ :]{0,2}[\d-]{3,20}"
    r"|#(?:[\da-f]{6}|[\da-f]{3})|[12]\d{2}0s",
    re.IGNORECASE,
)
"""E-mail, web and IPv6 addresses, phone numbers, ISBNs, colors, decades."""
_SIZE = re.compile(r"\d{1,5}\s?[x×]\s?\d{1,5}")
_ORDINAL = re.compile(r"\d{1,6}(?:st|nd|rd|th)", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]{1,4}[- ]?_?\{?\d{1,6}\}?[A-Z]{0,3}|\d{1,6}-?[A-Z]{2,3}\d{0,4}|\d{1,4}-?[A-Z]")
_FORMULA = re.compile(r"(?:[A-Z][a-z]?(?:_?\{?\d{1,3}\}?)?){2,10}(?:\^?\{?\d?[+-]\}?)?")
_NUMBERED = re.compile(r"([A-Za-z]{2,})(?:[ -][A-Za-z]+){0,3}[ -]?#?\d{1,6}[A-Za-z]?")
_SYMBOLS = re.compile(r"[A-Za-z]{1,3}(?:\+\+|#)|N/A|n/a", re.ASCII)
_INITIAL = re.compile(r"(?:[A-Z]\. ?){1,3}[A-Z][a-z]+")
_NOT_A_NAME = frozenset(
    [
        "about",
        "approx",
        "approximately",
        "around",
        "at",
        "cos",
        "cot",
        "csc",
        "eur",
        "exp",
        "exactly",
        "gcd",
        "inr",
        "lcm",
        "ln",
        "log",
        "max",
        "min",
        "minus",
        "mod",
        "negative",
        "of",
        "over",
        "pi",
        "plus",
        "rad",
        "rs",
        "sec",
        "sin",
        "sqrt",
        "tan",
        "theta",
        "times",
        "to",
        "usd",
        "us",
        "alpha",
        "beta",
        "gamma",
        "only",
        "more",
        "less",
        "than",
        "least",
        "most",
        "under",
        "above",
        "below",
        "between",
        "half",
    ]
)
_CONSONANTS = re.compile(r"[b-df-hj-np-tv-z]+", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’/-]+[^\W\d_]+)*[.!]?")


def is_letter(gold: str) -> bool:
    """Whether a gold answer is one capital letter, bare or in parentheses. It is then a choice even without options."""
    return re.fullmatch(r"\s*\(?[A-Z]\)?\s*", gold) is not None


def is_words(gold: str) -> bool:
    """Whether a gold answer is plain words, such as `right triangle`, not a product of variables or a name (`ABC`)."""
    plain = strip_text_commands(gold).strip(" $")
    if plain.casefold() == "no":
        return True
    if len(plain) <= MAX_CHARACTERS and (
        plain.casefold() in ("infinity", "inf") or read_number_words(plain) is not None
    ):
        return False
    return _WORDS.fullmatch(plain) is not None and any(
        not word.isascii() or (len(word) >= 3 and not word.isupper() and not _CONSONANTS.fullmatch(word))
        for word in re.split(r"[\s/'’-]+", plain)
    )


def is_label(gold: str) -> bool:
    """Whether a gold answer is a date, range, version, address, size, ordinal, code, chemical formula or name."""
    if len(gold) > MAX_CHARACTERS:
        return False
    plain = strip_text_commands(gold).strip(" $\t\r\n")
    if any(
        pattern.fullmatch(plain) for pattern in (_DATE, _RANGE, _VERSION, _ADDRESS, _SIZE, _ORDINAL, _SYMBOLS, _INITIAL)
    ):
        return True
    if _CODE.fullmatch(plain):
        return True
    numbered = _NUMBERED.fullmatch(plain)
    if numbered:
        return not any(word in _NOT_A_NAME for word in re.findall("[a-z]+", plain.lower()))
    return any(character.isdigit() for character in plain) and _FORMULA.fullmatch(plain) is not None
