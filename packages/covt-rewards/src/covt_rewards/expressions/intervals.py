r"""Inequalities as intervals: `x>3` is `(3, \infty)`, `-2\le x\le 5` is `[-2, 5]`, `x<2 or x>3` is a union."""

from __future__ import annotations

import re

MAX_CHARACTERS = 120

_SIGNS = {"<": "<", ">": ">", "<=": "<=", ">=": ">=", "\\lt": "<", "\\gt": ">"}
_SIGN = r"(<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![a-z]))"
_ONE = re.compile(rf"\s*([^<>=]{{1,40}}?)\s*{_SIGN}\s*([^<>=]{{1,40}}?)\s*")
_TWO = re.compile(rf"\s*([^<>=]{{1,40}}?)\s*{_SIGN}\s*([a-zA-Z])\s*{_SIGN}\s*([^<>=]{{1,40}}?)\s*")
_INTERVAL = re.compile(r"\s*\$?(?:\\left)?\s?[(\[].{1,40},.{1,40}[)\]]\s?\$?\s*")
_OR = re.compile(r"\s*(?:\\text\s?\{\s*or\s*\}|\bor\b|\\cup|\\lor|\\vee)\s*")
_VARIABLE = re.compile(r"[a-zA-Z]")
_FORBIDDEN = re.compile(r"\\(?:text|in|le|ge|lt|gt|ne)(?![a-z])|,|=")


def as_interval(answer: str, gold: str) -> str:
    """Rewrite inequalities in one variable as an interval where the gold answer is one; else return them unchanged."""
    if len(answer) > MAX_CHARACTERS or not any(sign in answer for sign in ("<", ">", "\\l", "\\g")):
        return answer
    if not _INTERVAL.fullmatch(gold):
        return answer
    intervals: list[str] = []
    for part in _OR.split(answer.strip(" $")):
        interval = _read_inequality(part)
        if not interval:
            return answer
        intervals.append(interval)
    return r" \cup ".join(intervals)


def _read_inequality(text: str) -> str:
    if match := _TWO.fullmatch(text):
        low, first, _, second, high = match.groups()
        signs = _read_sign(first), _read_sign(second)
        if signs[0][0] != signs[1][0]:
            return ""
        if signs[0][0] == ">":
            low, high, signs = high, low, (signs[1], signs[0])
        return f"{_open(signs[0])}{low}, {high}{_close(signs[1])}" if _are_bounds(low, high) else ""
    if match := _ONE.fullmatch(text):
        left, written, right = match.groups()
        sign = _read_sign(written)
        if _VARIABLE.fullmatch(right):
            left, right, sign = right, left, {"<": ">", ">": "<"}[sign[0]] + sign[1:]
        if not _VARIABLE.fullmatch(left) or not _are_bounds(right):
            return ""
        return f"(-\\infty, {right}{_close(sign)}" if sign[0] == "<" else f"{_open(sign)}{right}, \\infty)"
    return ""


def _read_sign(written: str) -> str:
    return _SIGNS.get(written) or ("<=" if written.startswith("\\l") else ">=")


def _are_bounds(*texts: str) -> bool:
    return all(not _FORBIDDEN.search(text) and any(each.isdigit() or each == "\\" for each in text) for text in texts)


def _open(sign: str) -> str:
    return "[" if sign.endswith("=") else "("


def _close(sign: str) -> str:
    return "]" if sign.endswith("=") else ")"
