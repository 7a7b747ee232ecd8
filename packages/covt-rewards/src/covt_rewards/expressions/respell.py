r"""Respelling answers that math-verify cannot read: `45°`, `√5`, `3e8`, `3 1/2`, `12 m/s`, `\$18.50`.

Only spellings with one meaning change; math-verify decides everything else.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 300
"""Longer answers are formulas or prose and stay as they are."""

_CHARACTERS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "∞": r"\infty ",
        "∪": r"\cup ",
        "∅": r"\emptyset ",
        "±": r"\pm ",
        "²": "^2",
        "³": "^3",
        "°": r"^{\circ}",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "％": "%",
        "：": ":",
        "，": ",",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_TOKENS = (
    (re.compile(r"√\s?(\d+(?:\.\d+)?|[a-zA-Z]|\([^()]{1,80}\))"), r"\\sqrt{\1}"),
    (re.compile(r"(\\sqrt\[[^\[\]{}]{1,9}\])\s?(\d)"), r"\1{\2}"),
    (re.compile(r"\\degree(?:s(?![a-z])|(?![a-zA-Z]))"), r"^{\\circ}"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\over(?:line|rightarrow)\s?\{([A-Z]{1,3})\}"), r"\1"),
    (re.compile(r"(?<=\d)\s?\\text\s?\{\s?to\s?\}\s?(?=\d)|(?<=\d) to (?=\d)"), ":"),
)
_REPEATING = re.compile(r"(\d{1,9})\.(\d{0,9})\\(?:overline|bar|dot)\s?\{(\d{1,9})\}")

_NUMBER = r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d*\.?\d+"
_PLAIN = re.compile(_NUMBER)
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_CURRENCY = re.compile(rf"(-?)(?:US)?(?:\\?\$|€|£|¥|₹|USD|Rs\.?)\s?({_NUMBER})")
_POWER_OF_TEN = re.compile(r"(-?\d{1,9}(?:\.\d{1,15})?)[eE]\+?(-?)0*(\d{1,3})")
_SPACED = re.compile(r"-?\d{1,3}(?:(?:\\[,;:! ]|~| )\d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"(-?\d{1,9})\s(\d{1,9})/(\d{1,9})")
_PER_TIME = r"(?:km|cm|mm|m|mi|ft)\s?/\s?(?:s|h|hr|min|sec)(?:\^\{?2\}?)?"
_DENSITY = r"(?:kg|g|mg)\s?/\s?(?:L|mL|(?:c?m)\^\{?3\}?)"
_WORDS = (
    r"(?!(?:or|and|to|more|less|than|not|pi|sin|cos|tan|log|sqrt|mod|alpha|beta|gamma|theta|infinity)\b)"
    r"[A-Za-z]{4,}(?:[ /-][A-Za-z]{2,}){0,4}\.?"
)
_WITH_UNIT = re.compile(
    rf"({_NUMBER}|\\[dt]?frac\{{\d+\}}\{{\d+\}})(?:\\[,;: ]|~|\s)*"
    rf"(?:{_PER_TIME}|{_DENSITY}|\\(?:text|mathrm)\s?\{{\s?(?:{_PER_TIME}|{_DENSITY})\s?\}}"
    rf"|\\frac\{{(?:k|c|m)?m\}}\{{(?:s|h)(?:\^\{{?2\}}?)?\}}|(?<=\s){_WORDS})"
)


def respell(text: str) -> str:
    """Rewrite an answer so that math-verify can read it; other texts are returned unchanged."""
    if len(text) > MAX_CHARACTERS:
        return text
    changed = text.translate(_CHARACTERS)
    if "\\" in changed or "√" in changed or " to " in changed:
        for pattern, replacement in _TOKENS:
            changed = pattern.sub(replacement, changed)
        changed = _REPEATING.sub(_as_fraction, changed)
    inner = changed.strip()
    for mark in ("**", "$"):
        if inner.startswith(mark) and inner.endswith(mark) and inner.count(mark) == 2:
            inner = inner[len(mark) : -len(mark)].strip()
    return _extract_number(inner) or changed


def _extract_number(text: str) -> str:
    """Return a number without its currency, unit or spacing; empty when the text is anything else."""
    if match := _CURRENCY.fullmatch(text):
        return match.group(1) + match.group(2)
    if match := _POWER_OF_TEN.fullmatch(text):
        return rf"{match.group(1)} \times 10^{{{match.group(2)}{match.group(3)}}}"
    if _SPACED.fullmatch(text):
        return re.sub(r"\\[,;:! ]|~| ", "", text)
    if match := _MIXED.fullmatch(text):
        return rf"{match.group(1)}\frac{{{match.group(2)}}}{{{match.group(3)}}}"
    if match := _WITH_UNIT.fullmatch(text):
        return match.group(1)
    if text.casefold() in NUMBER_WORDS:
        return str(NUMBER_WORDS.index(text.casefold()))
    return text if _PLAIN.fullmatch(text) else ""


def _as_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` is (16 − 1)/90."""
    whole, fixed, repeated = match.groups()
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    denominator = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    return rf"\frac{{{numerator}}}{{{denominator}}}"
