"""Horizontal bars with 95 % intervals and reference lines. Positions are percentages of the track's width."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bar:
    """One row. `left` and `width` place the bar; `low` and `high` the interval's ends; all in % of the track."""

    name: str
    note: str
    color: str
    left: float
    width: float
    low: float | None
    high: float | None
    value: str
    interval: str

    @property
    def at(self) -> float:
        """Where the value lies: the bar's far end."""
        return self.left + self.width


@dataclass(frozen=True)
class BarChart:
    rows: list[Bar]
    ticks: list[tuple[float, str]]
    lines: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    axis: str = ""
    label: str = ""


@dataclass(frozen=True)
class Value:
    """A number to draw, in data units, with its interval where it is known."""

    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    interval: str = ""
    note: str = ""
    color: str = "a1"


def bar_chart(
    values: list[Value],
    top: float,
    ticks: list[tuple[float, str]],
    *,
    lines: list[tuple[float, str]] | None = None,
    axis: str = "",
    label: str = "",
) -> BarChart:
    """Bars from 0 to `top` (data units > 0); ticks and lines are (data value, text)."""

    def place(value: float) -> float:
        return round(min(max(value / top, 0.0), 1.0) * 100, 2)

    rows = [
        Bar(
            name=item.name,
            note=item.note,
            color=item.color,
            left=0.0,
            width=place(item.value),
            low=None if item.low is None else place(item.low),
            high=None if item.high is None else place(item.high),
            value=item.text,
            interval=item.interval,
        )
        for item in values
    ]
    return BarChart(
        rows=rows,
        ticks=[(place(at), text) for at, text in ticks],
        lines=[(place(at), text) for at, text in lines or []],
        axis=axis,
        label=label,
    )


SHARE_TICKS = [(0.0, "0"), (0.25, "25"), (0.5, "50"), (0.75, "75"), (1.0, "100 %")]
