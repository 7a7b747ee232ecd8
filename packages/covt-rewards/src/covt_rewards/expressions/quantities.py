r"""Numbers with units or things counted: `12 cm^2`, `\$18.50`, `2.5 million`, `20^\circ\text{C}`, `3/4 cup`, `5个`.

A gold answer without a unit takes any unit, and one with a unit also takes the bare number. Where both have one, the
units must measure the same thing, and the values agree after conversion: 5 kg is 5000 g and not 5 m.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from covt_rewards.expressions.constants import Value, compare_constants, read_constant
from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.number_words import MAGNITUDES
from covt_rewards.expressions.respell import respell
from covt_rewards.expressions.units import Unit, read_unit

MAX_CHARACTERS = 120

_REPLACED = (
    (re.compile(r"\^\s?\{?\s?(?:\\circ|o|∘)\s?\}?|\\degrees?(?![A-Za-z])|[º˚]"), "°"),
    (re.compile(r"\\frac\s?\{([A-Za-z]{1,3})\}\s?\{([A-Za-z]{1,3}(?:\^\{?\d\}?)?)\}"), r"\1/\2"),
    (re.compile(r"\\[,;:!\s]|\\q?quad(?![A-Za-z])|~|\\ "), " "),
    (re.compile(r"(?<=[A-Za-z])\s?\\(?:cdot|times)\s?(?=[A-Za-z])"), "·"),
    (re.compile(r"\\Omega(?![A-Za-z])"), "Ω"),
    (re.compile("℃"), "°C"),
    (re.compile("℉"), "°F"),
    (re.compile(r"(?:°|\bdegrees?)\s?(?:celsius|centigrade|C\b)", re.IGNORECASE), "°C"),
    (re.compile(r"(?:°|\bdegrees?)\s?(?:fahrenheit|F\b)", re.IGNORECASE), "°F"),
)
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "¹": "^1", "⁻": "^-"})
_APPROXIMATELY = re.compile(
    r"(?:≈|\\approx|\\sim|~|\b(?:about|approximately|approx\.?|around|roughly|exactly)\b)\s?", re.IGNORECASE
)
_CURRENCY = re.compile(r"(-?)\s?(US\s?\$|\\?\$|€|£|¥|₹|USD|EUR|GBP|Rs\.?)\s?(-?\d.*)")
_COMPOUND = re.compile(r"(\d[\d,.]{0,9}\s?[A-Za-z]{1,12})\.?,?\s(?:and\s)?(\d[\d,.]{0,9}\s?[A-Za-z]{1,12}\.?)")
_FONT = re.compile(r"\\(?:rm|bf|it)(?![A-Za-z])|</?(?:b|i|em|strong)>")
_ANGLE = re.compile(r"(\d{1,4})\s?°\s?(\d{1,2})\s?(?:'|\\prime|′)(?:\s?(\d{1,2})\s?(?:\"|''|″))?")
_MIXED = re.compile(r"(-?)(\d{1,6})\s?\\[dt]?frac\s?\{?(\d{1,6}|\d(?=\d))\}?\s?\{?([1-9]\d{0,5})\}?")
_WORD_OR_COMMAND = re.compile(r"\\[A-Za-z]+|(?<=\s)[({\[]?[A-Za-zµμΩ]+|[A-Za-zµμΩ]+|[°$€£¥₹¢\"'一-鿿]")
_SHAPE = re.compile(
    r"\s(?:long|wide|tall|high|deep|thick|apart|away|old|\(approx\.?\)"
    r"|in (?:length|width|height|total|all|area|volume))$"
)
_MAGNITUDE = re.compile(rf"({'|'.join(MAGNITUDES)})s?(?![a-z])\s?(?:of\s)?(.*)", re.IGNORECASE)
_COUNTED = re.compile(
    r"[A-Za-z]{3,}(?:[ /-][A-Za-z]{2,}){0,4}"
    r"|[个只条本张块颗支把台辆件次名位人岁朵棵头匹双对盒箱袋瓶杯碗页层间排组][一-鿿]{0,4}"
)
_NOT_COUNTED = re.compile(
    "all|alpha|and|any|beta|between|but|choose|cos|cot|csc|cubed|det|dim|div|exp|factorial|fewer|fifths|for|fourths|from"
    "|gamma|gcd|greater|half|halves|hundredths|if|inf|infinity|integers|is|lcm|less|ln|log|max|minus|mod|modulo|more|mul"
    "|nor|not|off|only|or|other|out|over|pi|plus|rem|remainder|sin|sqrt|squared|sum|tan|tenths|than|the|theta|third"
    "|thirds|through|till|to|until|via|when|where|with|without"
)
"""Words behind a number that continue the mathematics."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit.

    Attributes:
        value: the number; a word such as `million` is multiplied in.
        text: the number as it is written, for computer algebra.
        units: the meanings of the unit; empty for a thing counted or a bare number.
        counted: the words of the thing counted, lower-case and singular; empty with a unit.
        certain: False for a letter right behind the digits, `5m`, that may be a variable.
        angle: whether the number is written with π, as radians are.
    """

    value: Value
    text: str
    units: tuple[Unit, ...] = ()
    counted: frozenset[str] = frozenset()
    certain: bool = True
    angle: bool = False

    @property
    def is_bare(self) -> bool:
        return not self.units and not self.counted


@lru_cache(maxsize=1024)
def read_quantity(text: str) -> Quantity | None:
    """Read a number with or without a unit; None for anything else."""
    if not 0 < len(text) <= MAX_CHARACTERS:
        return None
    text = _unify(text)
    text = _APPROXIMATELY.sub("", text, count=1).strip()
    if match := _ANGLE.fullmatch(text):
        degrees, minutes, seconds = (int(part or 0) for part in match.groups())
        value = degrees + Fraction(minutes, 60) + Fraction(seconds, 3600)
        return Quantity(value, str(float(value)), read_unit("°"))
    if match := _CURRENCY.fullmatch(text):
        sign, symbol, number = match.groups()
        inner = read_quantity(sign + number)
        symbol = re.sub(r"US|\\|\s|\.", "", symbol) if "$" in symbol else symbol.rstrip(".")
        units = read_unit(symbol)
        if inner is None or not (inner.is_bare or _find_factors(units, inner.units)):
            return None
        return Quantity(inner.value, inner.text, units)
    if match := _COMPOUND.fullmatch(text):
        return _add(read_quantity(match.group(1)), read_quantity(match.group(2)))
    bare = _read_value(text)
    if bare is not None:
        return Quantity(bare[0], bare[1], angle="\\pi" in bare[1])
    for match in _WORD_OR_COMMAND.finditer(text):
        if match.group().startswith("\\") or match.start() == 0:
            continue
        found = _read_value(text[: match.start()])
        if found is not None:
            is_attached = text[match.start() - 1 : match.start()] not in (" ", "")
            return _with_unit(*found, text[match.start() :].strip(), is_attached)
    return None


def _add(large: Quantity | None, small: Quantity | None) -> Quantity | None:
    """Add `3 inches` to `5 feet`: only units of one dimension, the second smaller than the first."""
    if large is None or small is None or not large.units or not small.units:
        return None
    for a in large.units:
        for b in small.units:
            if a.dimension == b.dimension and b.factor < a.factor:
                value = float(large.value) + float(small.value) * b.factor / a.factor
                return Quantity(value, f"{value:.12g}", (a,))
    return None


def _unify(text: str) -> str:
    text = strip_text_commands(_FONT.sub("", text)).translate(_SUPERSCRIPTS).strip(" \t\r\n*`_").rstrip("\\")
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<!\\)\$(.{1,60}?)(?<!\\)\$", r"\1", text)
    return text.strip().rstrip(",;").removesuffix(".").strip()


def _read_value(text: str) -> tuple[Value, str] | None:
    text = respell(text.strip())
    if match := _MIXED.fullmatch(text):
        sign, whole, above, below = match.groups()
        part = int(whole) + Fraction(int(above), int(below))
        return (-part if sign else part), text
    value = read_constant(text)
    return None if value is None else (value, text)


def _with_unit(value: Value, text: str, rest: str, is_attached: bool) -> Quantity | None:
    magnitude = _MAGNITUDE.fullmatch(rest)
    if magnitude:
        size = MAGNITUDES[magnitude.group(1).lower()]
        scaled = value * size
        rest = magnitude.group(2)
        text = str(scaled) if isinstance(scaled, Fraction) and scaled.denominator == 1 else rf"{text} \times {size}"
        if not rest:
            return Quantity(scaled, text)
        value = scaled
    rest = _SHAPE.sub("", rest)
    if rest.startswith(("(", "{", "[")) and rest.endswith((")", "}", "]")):
        rest = rest[1:-1].strip()
    is_letter = is_attached and len(rest) == 1 and rest.isascii() and rest.isalpha()
    units = read_unit(rest)
    if units:
        return Quantity(value, text, units, certain=not is_letter, angle="\\pi" in text)
    if is_letter or (is_attached and rest.isascii()) or not _COUNTED.fullmatch(rest):
        return None
    words = re.findall(r"[a-z]+|[^\x00-\x7f]+", rest.lower())
    if _NOT_COUNTED.fullmatch(words[0]) or "than" in words or "and" in words or "or" in words:
        return None
    return Quantity(value, text, counted=frozenset(_singular(word) for word in words))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word.removesuffix("s") if len(word) > 3 and not word.endswith("ss") else word


def compare_quantities(gold: Quantity, answer: Quantity, precision: int) -> bool | None:
    """Compare two numbers with units; None where the units agree and the values are too close to call."""
    if gold.is_bare or answer.is_bare:
        if answer.is_bare and not gold.certain:
            return None
        if answer.is_bare and answer.angle and not gold.angle and _find_factors(gold.units, read_unit("rad")):
            answer = Quantity(answer.value, answer.text, read_unit("rad"))
        else:
            return compare_constants(gold.value, answer.value, precision)
    if gold.counted or answer.counted:
        if not _count_the_same(gold, answer):
            return False
        return compare_constants(gold.value, answer.value, precision)
    verdict: bool | None = False
    for factor in _find_factors(gold.units, answer.units):
        if factor == 1:
            found = compare_constants(gold.value, answer.value, precision)
        else:
            found = math.isclose(float(gold.value), float(answer.value) * factor, rel_tol=1e-6)
        if found:
            return True
        verdict = found if found is None else verdict
    return verdict


def _count_the_same(gold: Quantity, answer: Quantity) -> bool:
    """Whether one side's words are among the other's: `5 cubes` and `5 small cubes`; `units` may be anything."""
    if gold.counted and answer.counted:
        return gold.counted <= answer.counted or answer.counted <= gold.counted
    return any(name == "unit" for unit in (*gold.units, *answer.units) for name, _ in unit.dimension)


def _find_factors(gold: tuple[Unit, ...], answer: tuple[Unit, ...]) -> list[float]:
    """Find by how much the answer's unit is larger than the gold one, for each pair of meanings that fit."""
    factors: list[float] = []
    for a in gold:
        for b in answer:
            if a.dimension == b.dimension:
                factors.append(1.0 if math.isclose(a.factor, b.factor, rel_tol=1e-12) else b.factor / a.factor)
            elif any(name == "unit" for name, _ in (*a.dimension, *b.dimension)) and _powers(a) == _powers(b):
                factors.append(1.0)
    return factors


def _powers(unit: Unit) -> list[int]:
    return sorted(power for _, power in unit.dimension)
