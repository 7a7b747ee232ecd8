r"""Values of constants such as `-12.50`, `1,234`, `3/4`, `\frac{\sqrt{3}}{2}`, `2\pi + 1`, without computer algebra.

Most answers are constants, and most wrong ones differ so clearly that no algebra is needed. Everything outside the
small grammar below, and every close call, is left to math-verify. Verdicts given here agree with math-verify's.

    sum     = ["+" | "-"] product {("+" | "-") product}
    product = factor {["\cdot" | "\times"] factor} ["/" plain]
    factor  = (number | "\pi" | "\sqrt" "{" sum "}" | "\frac" "{" sum "}{" sum "}" | "(" sum ")") ["^" digit]
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

Value = Fraction | float
"""Exact where the constant is rational, else a float good to about 12 digits."""

MAX_CHARACTERS = 120
_LARGEST = 1e15
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3}){1,3}(?:\.\d{1,6})?")
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,6})?(?![\d.,])")
_SCIENTIFIC = re.compile(r"(-?\d{1,9}(?:\.\d{1,9})?)\s?\\(?:times|cdot)\s{0,2}10\^(?:\{(-?\d{1,2})\}|(\d))")
_SPACING = re.compile(r"\\[,;:!\s]|\s+")
_SIZED = re.compile(r"\\left(?=\()|\\right(?=\))")
_TIMES = ("\\cdot", "\\times")
_SMALL_FRACTION = re.compile(r"\\[dt]frac")


class _NotAConstantError(Exception):
    """The text is outside the grammar, or its value is not a number of ordinary size."""


def read_constant(text: str) -> Value | None:
    """Read the value of a constant; None when the text is outside the grammar."""
    if len(text) > MAX_CHARACTERS:
        return None
    stripped = text.strip().removeprefix("$").removesuffix("$").strip()
    if _THOUSANDS.fullmatch(stripped):
        return Fraction(stripped.replace(",", ""))
    if match := _SCIENTIFIC.fullmatch(stripped):
        return Fraction(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3))
    reader = _Reader(_SMALL_FRACTION.sub(r"\\frac", _SPACING.sub(" ", _SIZED.sub("", stripped))))
    try:
        value = reader.sum()
        reader.expect_end()
    except (_NotAConstantError, ZeroDivisionError, OverflowError, ValueError, RecursionError):
        return None
    if not abs(value) < _LARGEST:  # also true for NaN
        return None
    # math-verify does not treat 2 \cdot 1.5 and 3 as equal in every spelling, so only single decimals are exact.
    return value if "." not in stripped or _NUMBER.fullmatch(stripped.removeprefix("-")) else float(value)


def compare_constants(a: Value, b: Value, precision: int) -> bool | None:
    """Compare two constants to `precision` decimals; None where the verdict depends on rounding."""
    if isinstance(a, Fraction) and isinstance(b, Fraction) and a == b:
        return True
    apart = abs(float(a) - float(b))
    if apart > 1.5 * 10.0**-precision + 1e-9 * max(abs(float(a)), abs(float(b))):
        return False
    return None


class _Reader:
    """A recursive descent parser; each method reads one rule of the grammar at position `at`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def take(self, token: str) -> bool:
        self._skip_space()
        if not self.text.startswith(token, self.at):
            return False
        end = self.at + len(token)
        if token[-1].isalpha() and self.text[end : end + 1].isalpha():
            return False  # `\pi` does not match the beginning of `\pit`
        self.at = end
        return True

    def _skip_space(self) -> None:
        while self.text.startswith(" ", self.at):
            self.at += 1

    def expect(self, token: str) -> None:
        if not self.take(token):
            raise _NotAConstantError

    def expect_end(self) -> None:
        self._skip_space()
        if self.at != len(self.text):
            raise _NotAConstantError

    def sum(self) -> Value:
        negative = self.take("-") or (self.take("+") and False)
        value = -self.product() if negative else self.product()
        while True:
            if self.take("+"):
                value = _add(value, self.product())
            elif self.take("-"):
                value = _add(value, -self.product())
            else:
                return value

    def product(self) -> Value:
        value = self.factor(first=True)
        while True:
            if any(self.take(token) for token in _TIMES):
                value = _multiply(value, self.factor(first=True))
            elif self.take("/"):
                # Readers disagree on whether what follows the divisor belongs above or below the line.
                return _divide(value, self.plain())
            else:
                following = self.factor_or_none()
                if following is None:
                    return value
                value = _multiply(value, following)

    def factor_or_none(self) -> Value | None:
        r"""Read a factor after a factor without a sign, `\pi` or a root; a fraction there may be a mixed number."""
        self._skip_space()
        return self.factor(first=False) if self.text.startswith(("\\pi", "\\sqrt"), self.at) else None

    def plain(self) -> Value:
        if self.take("\\pi"):
            return math.pi
        return self.number()

    def number(self) -> Value:
        self._skip_space()
        match = _NUMBER.match(self.text, self.at)
        if match is None:
            raise _NotAConstantError
        self.at = match.end()
        return Fraction(match.group())

    def factor(self, first: bool) -> Value:
        if self.take("\\pi"):
            base: Value = math.pi
        elif self.take("\\sqrt"):
            base = math.sqrt(self.braced())
        elif first and self.take("\\frac"):
            base = _divide(self.braced(), self.braced())
        elif self.take("("):
            base = self.sum()
            self.expect(")")
        else:
            base = self.number()
        return self.power(base)

    def power(self, base: Value) -> Value:
        if not self.take("^"):
            return base
        braced = self.take("{")
        digit = self.text[self.at : self.at + 1]
        if digit not in ("2", "3", "4", "5") or _is_big(base):
            raise _NotAConstantError
        self.at += 1
        if braced:
            self.expect("}")
        elif self.text[self.at : self.at + 1].isdigit():
            raise _NotAConstantError
        return base ** int(digit)

    def braced(self) -> Value:
        """Read `{sum}`; a bare digit as in `\frac12` is left to algebra."""
        self.expect("{")
        value = self.sum()
        self.expect("}")
        return value


def _is_big(base: Value) -> bool:
    """Whether a power of the number would take too long."""
    return isinstance(base, Fraction) and max(base.numerator.bit_length(), base.denominator.bit_length()) > 64


def _add(a: Value, b: Value) -> Value:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else float(a) + float(b)


def _multiply(a: Value, b: Value) -> Value:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else float(a) * float(b)


def _divide(a: Value, b: Value) -> Value:
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else float(a) / float(b)
