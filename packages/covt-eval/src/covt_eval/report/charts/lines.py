"""Line charts as geometry: the template only places what stands here.

Coordinates run 0–1000 in both directions, y downward, so that one SVG path fits a plot of any size; text never lies in
the SVG, so it keeps its size on a phone.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from covt_eval.report.content.numbers import log_ticks, nice_ticks, percent, plain, tick_texts

PLOT_HEIGHT = 190  # pixels; report.css sets the same height
Table = tuple[list[str], list[list[str]]]  # header, rows
LABEL_GAP = 15 / PLOT_HEIGHT * 1000  # least distance of two labels at the right edge
MOST_POINTS = 160


@dataclass(frozen=True)
class Series:
    """points: (x, y) in data units, x ascending. band: (x, low, high). dots: mark every point."""

    name: str
    color: str
    points: list[tuple[float, float]]
    band: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])
    dots: bool = False


@dataclass(frozen=True)
class Line:
    name: str
    color: str
    path: str
    band: str
    dots: list[tuple[float, float]]
    label: str  # what stands at the right end: the name, or the last value where there is only one line
    label_at: float
    data: str  # JSON [[x, x text, y text], …] for the readout


@dataclass(frozen=True)
class LineChart:
    title: str
    unit: str
    x_label: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[tuple[float, str]]
    levels: list[tuple[float, str]]
    table: Table
    gutter: int  # characters the longest label at the right needs
    note: str = ""


def thin(points: list[tuple[float, float]], most: int = MOST_POINTS) -> tuple[list[tuple[float, float]], int]:
    """Means of equal runs of points, so that at most `most` stay; also the length of a run (1: nothing averaged)."""
    run = math.ceil(len(points) / most) if points else 1
    if run <= 1:
        return points, 1
    groups = [points[start : start + run] for start in range(0, len(points), run)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups], run


def spread(wanted: list[float], gap: float, top: float = 1000.0) -> list[float]:
    """Move label positions apart to at least `gap`, keeping their order and, where they fit, inside [0, top]."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    at = -gap
    for index in order:
        at = max(wanted[index], at + gap)
        placed[index] = at
    limit = top
    for index in reversed(order):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed


def line_chart(
    title: str,
    unit: str,
    x_label: str,
    series: list[Series],
    *,
    share: bool = False,
    from_zero: bool = False,
    marks: list[tuple[float, str]] | None = None,
    levels: list[tuple[float, str]] | None = None,
    whole_x: bool = False,
) -> LineChart:
    """Scale the series to a plot.

    share: y is a fraction, drawn from 0 to 100 %. marks: vertical lines (x, text). levels: horizontal lines (y, text).
    A positive y that spans more than two decades gets a logarithmic axis, and the unit says so.
    """
    averaged = 1
    thinned: list[Series] = []
    for item in series:
        points, run = thin(item.points)
        averaged = max(averaged, run)
        thinned.append(Series(item.name, item.color, points, item.band, item.dots))
    xs = [x for item in thinned for x, _ in item.points]
    ys = [y for item in thinned for _, y in item.points] + [y for y, _ in levels or []]
    for item in thinned:
        ys += [edge for _, low, high in item.band for edge in (low, high)]
    x_low, x_high = min(xs), max(xs)
    if x_high == x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    if whole_x:
        x_low, x_high = x_low - 0.25, x_high + 0.25
    log = not share and min(ys) > 0 and max(ys) / min(ys) > 100
    y_low, y_high = (0.0, 1.0) if share else limits(min(ys), max(ys), from_zero, log)
    lift = math.log10 if log else float

    def x_at(x: float) -> float:
        return round((x - x_low) / (x_high - x_low) * 1000, 1)

    def y_at(y: float) -> float:
        return round((1 - (lift(y) - lift(y_low)) / (lift(y_high) - lift(y_low))) * 1000, 1)

    def y_text(y: float) -> str:
        return percent(y) if share else plain(y)

    ends = [y_at(item.points[-1][1]) for item in thinned]
    labels = spread(ends, LABEL_GAP)
    x_ticks = sorted(set(xs)) if whole_x else nice_ticks(x_low, x_high)
    y_ticks = log_ticks(y_low, y_high) if log else nice_ticks(y_low, y_high)
    if share:
        y_texts = [f"{y * 100:.0f} %" for y in y_ticks]
    else:
        y_texts = [plain(y) for y in y_ticks] if log else tick_texts(y_ticks)
    lines = [
        Line(
            name=item.name,
            color=item.color,
            path="M" + " L".join(f"{x_at(x)} {y_at(y)}" for x, y in item.points),
            band=band_path([(x_at(x), y_at(low), y_at(high)) for x, low, high in item.band]),
            dots=[(x_at(x), y_at(y)) for x, y in item.points] if item.dots else [],
            label=item.name if len(thinned) > 1 else y_text(item.points[-1][1]),
            label_at=round(label_at, 1),
            data=json.dumps([[x_at(x), plain(x), y_text(y)] for x, y in item.points], ensure_ascii=False),
        )
        for item, label_at in zip(thinned, labels, strict=True)
    ]
    notes = [f"each point is the mean of {averaged} records"] if averaged > 1 else []
    return LineChart(
        title=title,
        unit=unit + (", log scale" if log else ""),
        x_label=x_label,
        lines=lines,
        x_ticks=[(x_at(x), text) for x, text in zip(x_ticks, tick_texts(x_ticks), strict=True)],
        y_ticks=[(y_at(y), text) for y, text in zip(y_ticks, y_texts, strict=True)],
        marks=[(x_at(x), text) for x, text in marks or [] if x_low <= x <= x_high],
        levels=[(y_at(y), text) for y, text in levels or []],
        table=table(x_label, thinned, y_text),
        gutter=max(len(line.label) for line in lines),
        note="; ".join(notes),
    )


def limits(low: float, high: float, from_zero: bool, log: bool) -> tuple[float, float]:
    """Where the y axis begins and ends: a little air around the data, zero included where it's close."""
    if log:
        return low / 1.3, high * 1.3
    if low >= 0 and (from_zero or low < 0.4 * high or high == 0):
        return 0.0, (high or 1.0) * 1.05
    if high == low:
        return low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    air = (high - low) * 0.08
    return low - air, high + air


def band_path(band: list[tuple[float, float, float]]) -> str:
    if not band:
        return ""
    there = [f"{x} {high}" for x, _, high in band]
    back = [f"{x} {low}" for x, low, _ in reversed(band)]
    return "M" + " L".join(there + back) + " Z"


def table(x_label: str, series: list[Series], y_text: Callable[[float], str], most: int = 12) -> Table:
    """The same numbers as text: header and at most `most` rows, evenly chosen, the last always among them."""
    xs = sorted({x for item in series for x, _ in item.points})
    if len(xs) > most:
        xs = [xs[round(index * (len(xs) - 1) / (most - 1))] for index in range(most)]
    columns = [dict(item.points) for item in series]
    rows = [[plain(x)] + [y_text(column[x]) if x in column else "–" for column in columns] for x in xs]
    return [x_label, *(item.name for item in series)], rows
