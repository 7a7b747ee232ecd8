r"""Notations that math-verify misreads: percentages, times of day, numerals of other bases, `\ge 5`, several letters.

Each judge gives a verdict only where both answers are of its notation (or, for percentages, one is and the other a
number); None leaves the pair to the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from covt_rewards.expressions.constants import constant
from covt_rewards.expressions.latex import strip_text_commands

_PERCENT = re.compile(r"(.{1,60}?)(?:\\?%|(?:\\ |\s)?\bpercent)")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\s?(?:([ap])\.?\s?m\b\.?)?", re.IGNORECASE)
_SIGNS = {"\\ge": ">=", "\\geq": ">=", "\\le": "<=", "\\leq": "<=", "<": "<", ">": ">", ">=": ">=", "<=": "<="}
_RELATION = re.compile(r"(\\geq?|\\leq?|[<>]=?)(?![a-zA-Z])\s?(.{1,60})")
_BASED = re.compile(r"([0-9A-Z]{1,40})_\{?(\d{1,2})\}?")
_LETTERS = re.compile(r"[A-J](?:\s?(?:,|;|/|&|\band\b|,\s?and\b)?\s?[A-J]){1,9}")


def verdict(gold: str, answer: str) -> bool | None:
    """Whether two answers in one of these notations are equal; None when they are not in one."""
    gold, answer = _plain(gold), _plain(answer)
    for judge in _JUDGES:
        found = judge(gold, answer)
        if found is not None:
            return found
    return None


def letters(text: str) -> frozenset[str] | None:
    """The options that `BD`, `B, D` or `B and D` names; None for anything else, also for a letter twice."""
    plain = _plain(text)
    if not _LETTERS.fullmatch(plain):
        return None
    found = re.findall(r"[A-J]", plain.replace("and", ""))
    return frozenset(found) if len(set(found)) == len(found) else None


def _plain(text: str) -> str:
    return strip_text_commands(text).strip(" \t\r\n$.") if len(text) <= 200 else ""


def _percentages(gold: str, answer: str) -> bool | None:
    r"""`12.5\%` is 12.5% and, as what was asked in percent, 12.5, and 0.125."""
    signs = [_PERCENT.fullmatch(text) for text in (gold, answer)]
    if not any(signs):
        return None
    a, b = (constant(sign.group(1) if sign else text) for sign, text in zip(signs, (gold, answer), strict=True))
    if a is None or b is None:
        return None
    same = a == b or (a == 100 * b if signs[0] and not signs[1] else 100 * a == b and not signs[0])
    return True if same else None


def _clocks(gold: str, answer: str) -> bool | None:
    """`2:45 p.m.` is `2:45 PM`, and `2:45` where only one of them says which half of the day."""
    a, b = _CLOCK.fullmatch(gold), _CLOCK.fullmatch(answer)
    if a is None or b is None or not (a.group(4) or b.group(4)):
        return None
    halves = {(match.group(4) or "").lower() for match in (a, b)} - {""}
    return [int(x or 0) for x in a.groups()[:3]] == [int(x or 0) for x in b.groups()[:3]] and len(halves) == 1


def _bases(gold: str, answer: str) -> bool | None:
    """`204_5` is not `204_6`; a numeral without its base is left to the others."""
    a, b = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    return None if a is None or b is None else a.groups() == b.groups()


def _bare_relations(gold: str, answer: str) -> bool | None:
    r"""`\ge 5` is not 5, and not `\le 5`."""
    a, b = _RELATION.fullmatch(gold), _RELATION.fullmatch(answer)
    if a is None:
        return None
    if b is None:
        return None if constant(answer) is None else False
    x, y = constant(a.group(2)), constant(b.group(2))
    return None if x is None or y is None else _SIGNS[a.group(1)] == _SIGNS[b.group(1)] and x == y


def _several_letters(gold: str, answer: str) -> bool | None:
    a, b = letters(gold), letters(answer)
    in_order = a is not None and "".join(sorted(a)) == "".join(re.findall("[A-J]", gold))  # and no word such as FACE
    return a == b if in_order and b is not None else None


_JUDGES: tuple[Callable[[str, str], bool | None], ...] = (
    _percentages,
    _clocks,
    _bases,
    _bare_relations,
    _several_letters,
)
