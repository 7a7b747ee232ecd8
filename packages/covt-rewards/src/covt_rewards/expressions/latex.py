r"""One spelling for LaTeX that renders alike: `\dfrac{1}{2}` and `\frac12`, `^{\circ}` and `°`. No algebra."""

from __future__ import annotations

import re

_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mathit|operatorname|mbox)\s{0,4}\{([^{}]{0,2000})\}")
_SPACING = re.compile(r"\\[,;:!\s]|\\(?:quad|qquad)(?![A-Za-z])|~|[ \t\r\n]+")
_SIZED = re.compile(r"\\(?:left|right|big|Big|bigl|bigr|displaystyle)(?![A-Za-z])")
_SINGLE = re.compile(r"([\^_])\{([^{}])\}")
_FRACTION = re.compile(r"\\frac\{?(\d)\}?\{?(\d)\}?(?!\d)")
_REPLACED = {
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "^{\\circ}": "°",
    "^\\circ": "°",
    "\\degree": "°",
    "\\%": "%",
    "\\$": "",
    "$": "",
    "\\(": "",
    "\\)": "",
    "\\[": "",
    "\\]": "",
    "−": "-",
    "²": "^2",
    "³": "^3",
}
MAX_CHARACTERS = 2_000


def strip_text_commands(text: str) -> str:
    r"""Replace `\text{…}` and similar commands by their content."""
    return _TEXT_COMMAND.sub(r"\1", text) if "\\" in text else text


def compact(text: str) -> str:
    """Remove delimiters, spacing and sizes, and unify fractions, degrees and exponents.

    Equal results mean equal mathematics; different results mean nothing.
    """
    text = strip_text_commands(text[:MAX_CHARACTERS].casefold())
    for old, new in _REPLACED.items():
        text = text.replace(old, new)
    text = _SINGLE.sub(r"\1\2", _SIZED.sub("", _SPACING.sub("", text)))
    return _FRACTION.sub(r"\\frac{\1}{\2}", text).strip(".,;:")
