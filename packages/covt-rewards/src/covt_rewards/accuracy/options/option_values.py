r"""Options by value: the only one that equals the answer in another spelling, `\frac{10}{3}` for `10/3`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from covt_rewards.expressions.notations import read_clock
from covt_rewards.expressions.quantities import Quantity, compare_quantities, read_quantity

_NAME_IS = re.compile(r"^\s*(?:\\angle\s?|∠\s?|m\s?\\angle\s?)?[A-Za-z]{1,3}(?:_\{?\w\}?)?\s?(?:=|≈|\\approx)\s?")
_PERCENT = re.compile(r"(.{1,40}?)\s?(?:\\?%|\b(?:percent|per cent|pct))")
_ROUNDED = re.compile(r"-?\d{0,9}\.(\d{2,9})")


def find_same_value(answer: str, options: Sequence[str]) -> int | None:
    """Find the only option of the answer's value; None for none or several.

    Tried in order: numbers with units, times of day, percentages, and an option that rounds to the answer's decimals.
    """
    if len(answer) > 200:
        return None
    answer = _NAME_IS.sub("", answer, count=1)
    for is_same in (_compare_as_quantities(answer), _compare_as_times(answer), _compare_rounded(answer)):
        if is_same is not None:
            same = [i for i, option in enumerate(options) if is_same(option)]
            if same:
                return same[0] if len(same) == 1 else None
    return None


Compare = Callable[[str], bool]


def _compare_as_quantities(answer: str) -> Compare | None:
    value, is_percent = _read(answer)
    if value is None:
        return None

    def is_same(option: str) -> bool:
        other, other_is_percent = _read(option)
        if other is None or (other_is_percent and not is_percent and not value.is_bare):
            return False
        if is_percent and not other_is_percent:
            return other.is_bare and _are_close(float(other.value) * 100, float(value.value))
        found = compare_quantities(other, value, 9)
        return bool(found) or (found is None and _are_close(float(other.value), float(value.value)))

    return is_same


def _are_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-9)


def _read(text: str) -> tuple[Quantity | None, bool]:
    """Read a number with its unit, and whether it is a percentage."""
    match = _PERCENT.fullmatch(text.strip(" $"))
    quantity = read_quantity(match.group(1) if match else text)
    return quantity, match is not None


def _compare_as_times(answer: str) -> Compare | None:
    time = read_clock(answer)
    if time is None:
        return None

    def is_same(option: str) -> bool:
        other = read_clock(option)
        return other is not None and other.is_same(time)

    return is_same


def _compare_rounded(answer: str) -> Compare | None:
    """Compare to the decimals that the answer shows, at least two: `0.6667` is the option 2/3."""
    match = _ROUNDED.fullmatch(answer.strip(" $"))
    if match is None:
        return None
    half = Fraction(1, 2 * 10 ** len(match.group(1)))

    def is_same(option: str) -> bool:
        other = read_quantity(option)
        return other is not None and other.is_bare and abs(Fraction(other.value) - Fraction(answer.strip(" $"))) <= half

    return is_same
