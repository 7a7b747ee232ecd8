r"""Mathematics as it is typed in code, in LaTeX: `x**2+1`, `pi/4`, `1.5*10^-3`, `4*cos(pi*t/3)`, `log(8,2)`."""

from __future__ import annotations

import re

_FUNCTIONS = [
    "arcsin",
    "arccos",
    "arctan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "ln",
    "log",
    "exp",
    "sqrt",
    "cbrt",
    "abs",
    "min",
    "max",
    "gcd",
]
_NAMED = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_LETTERS = ["pi", "alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "sigma", "phi", "omega"]
_CALL = re.compile(rf"(?<![A-Za-z\\])({'|'.join(_FUNCTIONS)})\s?\(")
_NAME = re.compile(rf"(?<![A-Za-z\\])({'|'.join(_LETTERS)})(?![A-Za-z])")
_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:inf|infinity|oo)(?![A-Za-z])", re.IGNORECASE)
_BARE_CALL = re.compile(r"(?<![A-Za-z\\])(ln|log|sin|cos|tan)\s(?=\d{1,6}(?!\d)|[a-z](?![a-z])|\\)")
_IMAGINARY = re.compile(r"(?<=\d)\s?\*\s?i(?![A-Za-z])")
_POWER = re.compile(r"\^\s?(-?\d+(?:\.\d+)?|[+-]\s?[A-Za-z](?![A-Za-z]))")
_TIMES_TEN = re.compile(r"(?<=\d)\s?[xX]\s?(?=10\s?\^)")
_UNION = re.compile(r"(?<=[)\]])\s?(?:U|u|∪|union)\s?(?=[(\[])")
_CODE = re.compile(
    rf"\*|\^[-(]|\^\d\d|(?<![A-Za-z\\])(?:{'|'.join(_FUNCTIONS)})\s?\(|(?<![A-Za-z\\])(?:{'|'.join(_LETTERS)}|inf(?:inity)?|oo)"
    r"(?![A-Za-z])|(?<=\d)\s?[xX]\s?10\s?\^|[)\]]\s?U\s?[(\[]"
)
_PROSE = re.compile(r"[A-Za-z]{2,}\s[A-Za-z]{2,}")


def from_code(text: str) -> str:
    """Rewrite an expression in code style; any other text, LaTeX included, is returned unchanged."""
    text = _BARE_CALL.sub(r"\\\1 ", text)
    if not _CODE.search(text) or _PROSE.search(text) or "$" in text:
        return text
    text = _UNION.sub(r" \\cup ", _TIMES_TEN.sub(r" \\times ", text.replace("**", "^")))
    text = _rewrite_calls(_IMAGINARY.sub("i", text))
    text = _NAME.sub(r"\\\1 ", _INFINITY.sub(r"\\infty ", text))
    text = _POWER.sub(r"^{\1}", _brace_powers(text))
    return re.sub(r"\s?\*\s?", r" \\cdot ", text)


def _rewrite_calls(text: str) -> str:
    for _ in range(20):
        match = _CALL.search(text)
        if match is None:
            break
        end = _find_closing(text, match.end() - 1)
        if end < 0:
            break
        inner = text[match.end() : end]
        text = text[: match.start()] + _as_latex(match.group(1), inner) + text[end + 1 :]
    return text


def _as_latex(name: str, inner: str) -> str:
    if name == "sqrt":
        return rf"\sqrt{{{inner}}}"
    if name == "cbrt":
        return rf"\sqrt[3]{{{inner}}}"
    if name == "abs":
        return f"|{inner}|"
    if name == "exp":
        return f"e^{{{inner}}}"
    if name == "log" and inner.count(",") == 1 and "(" not in inner:
        argument, base = inner.split(",")
        return rf"\log_{{{base.strip()}}}({argument.strip()})"
    return rf"\{_NAMED.get(name, name)}({inner})"


def _brace_powers(text: str) -> str:
    """Put braces around an exponent in parentheses: `10^(-3)` becomes `10^{-3}`."""
    at = text.find("^(")
    while at >= 0:
        end = _find_closing(text, at + 1)
        if end < 0:
            break
        text = text[: at + 1] + "{" + text[at + 2 : end] + "}" + text[end + 1 :]
        at = text.find("^(", at + 2)
    return text


def _find_closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return -1
