r"""Units of measurement: `cm^2`, `m/s`, `km per hour`, `°C`, `\$`, `mL`, `厘米`, with their dimensions and sizes.

A unit is a product of powers of base units times a factor. Names with two meanings (`pounds`, `C`, `"`) have both.
Words that are no unit, `apples`, count things: each is a dimension of its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache, lru_cache

Dimension = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """One meaning of a unit.

    Attributes:
        dimension: base units with their powers, sorted; empty for a pure number.
        factor: how many of the base units one of it is.
    """

    dimension: Dimension
    factor: float = 1.0

    def to_power(self, power: int) -> Unit:
        return Unit(tuple((name, each * power) for name, each in self.dimension), self.factor**power)

    def times(self, other: Unit) -> Unit:
        powers = dict(self.dimension)
        for name, power in other.dimension:
            powers[name] = powers.get(name, 0) + power
        return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), self.factor * other.factor)


def _unit(factor: float, **powers: int) -> Unit:
    return Unit(tuple(sorted(powers.items())), factor)


_FORCE = {"kg": 1, "m": 1, "s": -2}
_ENERGY = {"kg": 1, "m": 2, "s": -2}
_POWER = {"kg": 1, "m": 2, "s": -3}
_PRESSURE = {"kg": 1, "m": -1, "s": -2}
_VOLTAGE = {"kg": 1, "m": 2, "s": -3, "A": -1}
_PREFIXES = {
    "n": 1e-9, "µ": 1e-6, "μ": 1e-6, "u": 1e-6, "m": 1e-3, "c": 1e-2, "d": 1e-1, "k": 1e3, "M": 1e6, "G": 1e9,
}  # fmt: skip
_LONG_PREFIXES = {
    "nano": 1e-9, "micro": 1e-6, "milli": 1e-3, "centi": 1e-2, "deci": 1e-1, "kilo": 1e3, "mega": 1e6, "giga": 1e9,
}  # fmt: skip
_PREFIXED: dict[str, tuple[Unit, str, str]] = {
    # symbol: unit, prefixes that are in use, long names
    "m": (_unit(1, m=1), "nµμumcdk", "meter metre"),
    "g": (_unit(1e-3, kg=1), "nµμumk", "gram gramme gm"),
    "s": (_unit(1, s=1), "nµμum", "second"),
    "L": (_unit(1e-3, m=3), "µμumcdk", "liter litre"),
    "l": (_unit(1e-3, m=3), "µμumcdk", ""),
    "N": (_unit(1, **_FORCE), "mkM", "newton"),
    "J": (_unit(1, **_ENERGY), "mkMG", "joule"),
    "W": (_unit(1, **_POWER), "mkMG", "watt"),
    "V": (_unit(1, **_VOLTAGE), "µμumkM", "volt"),
    "A": (_unit(1, A=1), "nµμumk", "ampere amp"),
    "Hz": (_unit(1, s=-1), "kMG", "hertz"),
    "Pa": (_unit(1, **_PRESSURE), "kMG", "pascal"),
    "Ω": (_unit(1, kg=1, m=2, s=-3, A=-2), "mkM", "ohm"),
    "F": (_unit(1, kg=-1, m=-2, s=4, A=2), "nµμum", "farad"),
    "C": (_unit(1, A=1, s=1), "nµμum", "coulomb"),
    "T": (_unit(1, kg=1, s=-2, A=-1), "µμum", "tesla"),
    "H": (_unit(1, kg=1, m=2, s=-2, A=-2), "µμum", "henry"),
    "mol": (_unit(1, mol=1), "nµμumk", "mole"),
    "eV": (_unit(1.602176634e-19, **_ENERGY), "kMG", "electronvolt"),
    "cal": (_unit(4.184, **_ENERGY), "k", "calorie"),
    "Wh": (_unit(3600, **_ENERGY), "kMG", ""),
    "B": (_unit(1, byte=1), "kMG", "byte"),
    "Bq": (_unit(1, becquerel=1), "kMG", "becquerel"),
    "lm": (_unit(1, lumen=1), "", "lumen"),
    "cd": (_unit(1, candela=1), "", "candela"),
}
_PLAIN: dict[str, tuple[Unit, ...]] = {
    "in inch inches": (_unit(0.0254, m=1),),
    "ft foot feet": (_unit(0.3048, m=1),),
    "yd yds yard yards": (_unit(0.9144, m=1),),
    "mi mile miles": (_unit(1609.344, m=1),),
    '"': (_unit(0.0254, m=1), _unit(math.pi / 648000, rad=1)),
    "'": (_unit(0.3048, m=1), _unit(math.pi / 10800, rad=1)),
    "lb lbs": (_unit(0.45359237, kg=1),),
    "pound pounds": (_unit(0.45359237, kg=1), _unit(1, gbp=1)),
    "oz ounce ounces": (_unit(0.028349523125, kg=1), _unit(2.95735e-5, m=3)),
    "ton tons tonne tonnes t": (_unit(1000, kg=1),),
    "KB": (_unit(1e3, byte=1),),
    "TB": (_unit(1e12, byte=1),),
    "bit bits": (_unit(0.125, byte=1),),
    "min mins minute minutes": (_unit(60, s=1),),
    "sec secs": (_unit(1, s=1),),
    "h hr hrs hour hours": (_unit(3600, s=1),),
    "day days": (_unit(86400, s=1),),
    "week weeks wk": (_unit(604800, s=1),),
    "month months": (_unit(1, month=1),),
    "year years yr yrs": (_unit(12, month=1),),
    "mph": (_unit(1609.344 / 3600, m=1, s=-1),),
    "kmph kph": (_unit(1 / 3.6, m=1, s=-1),),
    "knot knots kn": (_unit(1852 / 3600, m=1, s=-1),),
    "rpm": (_unit(1 / 60, revolution=1, s=-1),),
    "rev revs revolution revolutions": (_unit(1, revolution=1),),
    "ha hectare hectares": (_unit(1e4, m=2),),
    "acre acres": (_unit(4046.8564224, m=2),),
    "gal gallon gallons": (_unit(3.785411784e-3, m=3),),
    "Nm": (_unit(1, **_ENERGY),),
    "cc": (_unit(1e-6, m=3),),
    "atm": (_unit(101325, **_PRESSURE),),
    "bar bars": (_unit(1e5, **_PRESSURE),),
    "mmHg": (_unit(133.322, **_PRESSURE),),
    "psi": (_unit(6894.757, **_PRESSURE),),
    "hp horsepower": (_unit(745.7, **_POWER),),
    "dB decibel decibels": (_unit(1, decibel=1),),
    "M": (_unit(1000, mol=1, m=-3),),
    "K kelvin kelvins": (_unit(1, kelvin=1),),
    "°C celsius centigrade": (_unit(1, celsius=1),),
    "°F fahrenheit": (_unit(1, fahrenheit=1),),
    "°K": (_unit(1, kelvin=1),),
    "° deg degs degree degrees": (_unit(math.pi / 180, rad=1), _unit(1, celsius=1), _unit(1, fahrenheit=1)),
    "rad rads radian radians": (_unit(1, rad=1),),
    "$ usd dollar dollars buck bucks 美元": (_unit(1, usd=1),),
    "cent cents ¢": (_unit(0.01, usd=1), _unit(0.01, eur=1)),
    "€ eur euro euros": (_unit(1, eur=1),),
    "£ gbp": (_unit(1, gbp=1),),
    "pence penny p": (_unit(0.01, gbp=1),),
    "¥ yen jpy": (_unit(1, jpy=1), _unit(1, cny=1)),
    "yuan rmb cny 元": (_unit(1, cny=1),),
    "角": (_unit(0.1, cny=1),),
    "₹ inr rupee rupees Rs rs": (_unit(1, inr=1),),
    "px pixel pixels": (_unit(1, pixel=1),),
    "unit units u": (_unit(1, unit=1),),
    "米": (_unit(1, m=1),),
    "厘米": (_unit(0.01, m=1),),
    "毫米": (_unit(0.001, m=1),),
    "分米": (_unit(0.1, m=1),),
    "千米 公里": (_unit(1000, m=1),),
    "克": (_unit(1e-3, kg=1),),
    "千克 公斤": (_unit(1, kg=1),),
    "吨": (_unit(1000, kg=1),),
    "升": (_unit(1e-3, m=3),),
    "毫升": (_unit(1e-6, m=3),),
    "秒": (_unit(1, s=1),),
    "分钟": (_unit(60, s=1),),
    "小时 时": (_unit(3600, s=1),),
    "天": (_unit(86400, s=1),),
    "年": (_unit(12, month=1),),
    "度": (_unit(math.pi / 180, rad=1), _unit(1, celsius=1)),
    "摄氏度": (_unit(1, celsius=1),),
}
NO_UNIT = (Unit(()),)
_POWERS = {
    "square": 2,
    "sq": 2,
    "sq.": 2,
    "squared": 2,
    "cubic": 3,
    "cu": 3,
    "cu.": 3,
    "cubed": 3,
    "平方": 2,
    "立方": 3,
}
_TOKEN = re.compile(
    r"\s*(?:(°\s?[CFK](?![A-Za-z])|[A-Za-zµμΩ]+\.?|[一-鿿]+|[°$€£¥₹¢\"'])(?:\^?\{?(-?[1-4])\}?)?|([/*·])|(\())"
)


@cache
def _table() -> dict[str, tuple[Unit, ...]]:
    table = {name: meanings for names, meanings in _PLAIN.items() for name in names.split()}
    for symbol, (unit, prefixes, names) in _PREFIXED.items():
        table[symbol] = (*table.get(symbol, ()), unit)
        for prefix in prefixes:
            table.setdefault(prefix + symbol, (Unit(unit.dimension, unit.factor * _PREFIXES[prefix]),))
        for name in names.split():
            for prefix, size in {"": 1.0, **_LONG_PREFIXES}.items():
                meaning = (Unit(unit.dimension, unit.factor * size),)
                table.setdefault(prefix + name, meaning)
                table.setdefault(prefix + name + "s", meaning)
    table["C"] = (*table["C"], _unit(1, celsius=1))
    table["F"] = (*table["F"], _unit(1, fahrenheit=1))
    for spelling, name in (("sec", "s"), ("mins", "min"), ("mL", "mL")):
        table.setdefault(spelling, table[name])
    for name in ("KM", "CM", "MM", "KG", "Kg", "ML", "ml", "Km", "Cm", "Mm"):
        table.setdefault(name, table.get(name.lower(), table.get(name.lower()[:-1] + "L", ())))
    return table


def find_unit(name: str) -> tuple[Unit, ...]:
    """Look one name up, `cm`, `Meters`, `sec.`; empty when it is no unit."""
    table, plain = _table(), name.replace(" ", "")
    found = table.get(plain) or table.get(plain.removesuffix("."))
    if not found and len(plain) > 2:
        found = table.get(plain.casefold().removesuffix("."))
    return found or ()


@lru_cache(maxsize=1024)
def read_unit(text: str) -> tuple[Unit, ...]:
    """Read a unit with its powers and quotients.

    Args:
        text: without LaTeX commands, such as `kg/m^3`, `m s^-2`, `square cm`, `km per hour`, `°C`.

    Returns:
        Its meanings; empty when any part of the text is no unit.
    """
    if not text.strip() or len(text) > 60:
        return ()
    meanings: tuple[Unit, ...] = NO_UNIT
    position, sign, power = 0, 1, 1
    text = text.strip().removesuffix(".").replace("平方", " square ").replace("立方", " cubic ")
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.end() == position or match.group(4):
            return ()
        position = match.end()
        name, exponent, operator = match.group(1), match.group(2), match.group(3)
        if operator or name == "per":
            sign = -1 if operator == "/" or name == "per" else sign
            continue
        if name in ("square", "sq", "sq.", "cubic", "cu", "cu."):
            power = _POWERS[name]
            continue
        if name in ("squared", "cubed"):
            return ()
        found = find_unit(name)
        if not found:
            return ()
        step = sign * (int(exponent) if exponent else power)
        meanings = tuple(a.times(b.to_power(step)) for a in meanings for b in found)
        power = 1
    return meanings if meanings != NO_UNIT and power == 1 else ()
