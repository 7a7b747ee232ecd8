r"""Notations that math-verify misreads: percentages, times of day, numerals of other bases, `\ge 5`, several letters.

Each comparison decides only where both answers use its notation (for percentages, where one does and the other is a
number). None leaves the pair to the next comparison.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from covt_rewards.expressions.constants import read_constant
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.quantities import read_quantity

_PERCENT = re.compile(r"(.{1,60}?)(?:\\?%|(?:\\ |\s)?\b(?:percent|per cent|pct))")
_CLOCK = re.compile(
    r"(\d{1,2}):(\d\d)(?::(\d\d))?\s?(?:([ap])\.?\s?m\b\.?)?|(\d{1,2})\s?([ap])\.?\s?m\b\.?", re.IGNORECASE
)
_RATIO = re.compile(r"[^:]{1,20}(?:\s?:\s?[^:]{1,20}){1,5}")
_SIGNS = {"\\ge": ">=", "\\geq": ">=", "\\le": "<=", "\\leq": "<=", "<": "<", ">": ">", ">=": ">=", "<=": "<="}
_RELATION = re.compile(r"(\\geq?|\\leq?|[<>]=?)(?![a-zA-Z])\s?(.{1,60})")
_BASED = re.compile(r"([0-9A-Z]{1,40})_\{?(\d{1,2})\}?")
_LETTERS = re.compile(r"[A-J](?:\s?(?:,|;|/|&|\band\b|,\s?and\b)?\s?[A-J]){1,9}")


def compare_notations(gold: str, answer: str) -> bool | None:
    """Compare two answers in one of these notations; None when they use none of them."""
    gold, answer = _plain(gold), _plain(answer)
    for compare in _COMPARISONS:
        found = compare(gold, answer)
        if found is not None:
            return found
    return None


def read_letters(text: str) -> frozenset[str] | None:
    """Read the options in `BD`, `B, D` or `B and D`; None for anything else, including a repeated letter."""
    plain = _plain(text)
    if not _LETTERS.fullmatch(plain):
        return None
    found = re.findall(r"[A-J]", plain.replace("and", ""))
    return frozenset(found) if len(set(found)) == len(found) else None


def _plain(text: str) -> str:
    return strip_text_commands(text).strip(" \t\r\n$.") if len(text) <= 200 else ""


def _compare_percentages(gold: str, answer: str) -> bool | None:
    r"""`12.5\%` equals 12.5%, 0.125 and, for a question in percent, 12.5."""
    signs = [_PERCENT.fullmatch(text) for text in (gold, answer)]
    if not any(signs):
        return None
    other = next((text for sign, text in zip(signs, (gold, answer), strict=True) if not sign), "")
    quantity = read_quantity(other)
    if quantity is not None and not quantity.is_bare:
        return False  # 45% is neither 45° nor 45 cm
    a, b = (read_constant(sign.group(1) if sign else text) for sign, text in zip(signs, (gold, answer), strict=True))
    if a is None or b is None:
        return None
    same = a == b or (a == 100 * b if signs[0] and not signs[1] else 100 * a == b and not signs[0])
    return True if same else None


@dataclass(frozen=True, slots=True)
class ClockTime:
    """A time of day as it is written; `half` is `a`, `p` or empty."""

    hour: int
    minute: int
    second: int
    half: str

    def is_same(self, other: ClockTime) -> bool:
        """Whether both name the same time; the half of the day counts only where both name it."""
        mine, theirs = (self.hour, self.minute, self.second), (other.hour, other.minute, other.second)
        return mine == theirs and (not (self.half and other.half) or self.half == other.half)


def read_clock(text: str) -> ClockTime | None:
    """Read `2:45`, `02:45 PM`, `2:45:10 a.m.`, `3 pm`; None for anything else."""
    match = _CLOCK.fullmatch(_plain(text))
    if match is None:
        return None
    hour, minute, second = (int(part or 0) for part in (match.group(1) or match.group(5), *match.groups()[1:3]))
    return ClockTime(hour, minute, second, (match.group(4) or match.group(6) or "").lower())


def _compare_clocks(gold: str, answer: str) -> bool | None:
    """`2:45 p.m.` equals `2:45 PM`, and `2:45` where only one of the two names the half of the day."""
    a, b = read_clock(gold), read_clock(answer)
    if a is None or b is None or not (a.half or b.half):
        return None
    return a.is_same(b)


def _compare_bases(gold: str, answer: str) -> bool | None:
    """`204_5` differs from `204_6`, and as an answer to a decimal number counts by its value."""
    a, b = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if b is None:
        return None
    if a is not None:
        return a.groups() == b.groups()
    value = read_constant(gold)
    digits, base = b.group(1), int(b.group(2))
    if value is None or not 2 <= base <= 36:
        return None
    return all(int(digit, 36) < base for digit in digits) and int(digits, base) == value


def _compare_ratios(gold: str, answer: str) -> bool | None:
    """`2:4:6` is `1:2:3` and not `1:3:2`; algebra would divide twice. Times of day are compared before."""
    if not (_RATIO.fullmatch(gold) and _RATIO.fullmatch(answer)):
        return None
    a, b = ([read_constant(part) for part in text.split(":")] for text in (gold, answer))
    if None in a or None in b:
        return None
    x, y = [float(value or 0) for value in a], [float(value or 0) for value in b]
    return len(x) == len(y) and all(math.isclose(x[0] * q, y[0] * p, rel_tol=1e-9) for p, q in zip(x, y, strict=True))


def _compare_relations(gold: str, answer: str) -> bool | None:
    r"""`\ge 5` differs from 5 and from `\le 5`."""
    a, b = _RELATION.fullmatch(gold), _RELATION.fullmatch(answer)
    if a is None:
        return None
    if b is None:
        return None if read_constant(answer) is None else False
    x, y = read_constant(a.group(2)), read_constant(b.group(2))
    return None if x is None or y is None else _SIGNS[a.group(1)] == _SIGNS[b.group(1)] and x == y


def _compare_letters(gold: str, answer: str) -> bool | None:
    """`ABD` equals `A, B, D`; only gold letters in alphabetical order count, so that words such as FACE do not."""
    a, b = read_letters(gold), read_letters(answer)
    in_order = a is not None and "".join(sorted(a)) == "".join(re.findall("[A-J]", gold))
    return a == b if in_order and b is not None else None


_COMPARISONS: tuple[Callable[[str, str], bool | None], ...] = (
    _compare_percentages,
    _compare_clocks,
    _compare_bases,
    _compare_ratios,
    _compare_relations,
    _compare_letters,
)
