"""Numbers as text, and axis ticks."""

import math


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5, 5 × 10^k) inside [low, high], ascending."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside [low, high], thinned to at most five."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(1, math.ceil((last - first + 1) / 5))
    return [10.0**power for power in range(first, last + 1, stride)]


def tick_texts(ticks: list[float]) -> list[str]:
    """Evenly spaced ticks with the decimals their step needs, the same for all."""
    step = abs(ticks[1] - ticks[0]) if len(ticks) > 1 else 0.0
    if not 1e-4 <= step < 1e4:
        return [plain(tick) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
    return [f"{tick:.{decimals}f}".replace("-", "−") for tick in ticks]


def plain(value: float) -> str:
    """Three significant digits, no exponent where that stays readable, a real minus sign."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-4:
        text = f"{value:.1e}".replace(".0e", "e").replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    elif size >= 100:
        text = f"{value:,.0f}".replace(",", " ")
    else:
        digits = max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share in [0, 1] as `97.4 %`, with no decimal at exactly 0 and 1; no line breaks at its space."""
    text = f"{share * 100:.1f}"
    return ("100" if text == "100.0" else "0" if text == "0.0" else text) + "\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A difference of shares in percentage points, signed: `+32.6`."""
    return f"{share * 100:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """`48 s`, `3 min 12 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
