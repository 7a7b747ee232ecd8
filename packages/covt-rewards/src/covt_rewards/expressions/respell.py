r"""Respelling answers that math-verify cannot read: `45°`, `√5`, `3e8`, `3 1/2`, `twenty-one`, `x**2`, `１２`.

Only spellings with one meaning change; math-verify decides everything else.
"""

from __future__ import annotations

import re

from covt_rewards.expressions.code_style import from_code
from covt_rewards.expressions.number_words import read_number_words

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
        "π": r"\pi ",
        "。": ".",
        "、": ",",
        "±": r"\pm ",
        "°": r"^{\circ}",
        "½": r"\frac{1}{2}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_TOKENS = (
    (re.compile(r"√\s?(\d+(?:\.\d+)?|[a-zA-Z]|\([^()]{1,80}\))"), r"\\sqrt{\1}"),
    (re.compile(r"(\\sqrt\[[^\[\]{}]{1,9}\])\s?(\d)"), r"\1{\2}"),
    (re.compile(r"\\degree(?:s(?![a-z])|(?![a-zA-Z]))"), r"^{\\circ}"),
    (re.compile(r"\\(?:mathrm|text)\s?\{\s?([eid])\s?\}"), r"\1"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\over(?:line|rightarrow)\s?\{([A-Z]{1,3})\}"), r"\1"),
    (re.compile(r"(?<=\d)\s?\\text\s?\{\s?to\s?\}\s?(?=\d)|(?<=\d) to (?=\d)"), ":"),
)
_REPEATING = re.compile(r"(\d{1,9})\.(\d{0,9})\\(?:overline|bar|dot)\s?\{(\d{1,9})\}")

_NUMBER = r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d*\.?\d+"
_PLAIN = re.compile(_NUMBER)
_SIGNED = re.compile(rf"\+\s?({_NUMBER})")
_POWER_OF_TEN = re.compile(r"(-?\d{1,9}(?:\.\d{1,15})?)[eE]\+?(-?)0*(\d{1,3})")
_SPACED = re.compile(r"-?\d{1,3}(?:(?:\\[,;:! ]|~| |\{,\}|,\\!|')\d{3})+(?:\.\d+)?")
_MIXED = re.compile(r"(-?\d{1,9})\s(\d{1,9})/(\d{1,9})")
_SUPERSCRIPT = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_PLAIN_DIGITS = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹", "-+0123456789")
_QUOTED = re.compile(r"([\"'`])([^\"'`]{1,200})\1")


def fold_digits(text: str) -> str:
    """Replace full-width digits, letters and signs by plain ones."""
    return "".join(chr(ord(each) - 0xFEE0) if "！" <= each <= "～" else each for each in text)


def respell(text: str) -> str:
    """Rewrite an answer so that math-verify can read it; other texts are returned unchanged."""
    if len(text) > MAX_CHARACTERS:
        return text
    changed = text
    if not text.isascii():
        changed = _SUPERSCRIPT.sub(lambda match: f"^{{{match.group().translate(_PLAIN_DIGITS)}}}", text)
        changed = fold_digits(changed).translate(_CHARACTERS).replace("^{2}", "^2").replace("^{3}", "^3")
    if "\\" in changed or "√" in changed or " to " in changed:
        for pattern, replacement in _TOKENS:
            changed = pattern.sub(replacement, changed)
        changed = _REPEATING.sub(_as_fraction, changed)
    inner = changed.strip().removesuffix(".") if changed.startswith("**") else changed.strip()
    for mark in ("**", "$$", "$"):
        if inner.startswith(mark) and inner.endswith(mark) and inner.count(mark) == 2:
            inner = changed = inner[len(mark) : -len(mark)].strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if inner.startswith(opening) and inner.endswith(closing):
            inner = inner[2:-2].strip()
    if match := _QUOTED.fullmatch(inner):
        inner = changed = match.group(2)
    return _extract_number(inner.rstrip(" .")) or from_code(changed)


def _extract_number(text: str) -> str:
    """Return a number in plain digits or LaTeX; empty when the text is anything else."""
    if match := _SIGNED.fullmatch(text):
        return match.group(1)
    if match := _POWER_OF_TEN.fullmatch(text):
        return rf"{match.group(1)} \times 10^{{{match.group(2)}{match.group(3)}}}"
    if _SPACED.fullmatch(text):
        return re.sub(r"\\[,;:! ]|~| |\{,\}|,\\!|'", "", text)
    if match := _MIXED.fullmatch(text):
        return rf"{match.group(1)}\frac{{{match.group(2)}}}{{{match.group(3)}}}"
    if _PLAIN.fullmatch(text):
        return text
    if text[:1].isdigit() and text.isascii() and not text[-1:].isalpha():
        return ""  # no number in words
    value = read_number_words(text)
    if value is None:
        return ""
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _as_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` is (16 − 1)/90."""
    whole, fixed, repeated = match.groups()
    numerator = int(whole + fixed + repeated) - int(whole + fixed)
    denominator = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    return rf"\frac{{{numerator}}}{{{denominator}}}"
