"""Accuracies, ablations, differences and times of a quickstart as charts."""

from dataclasses import dataclass

from covt_eval.report.charts.bars import SHARE_TICKS, BarChart, Value, bar_chart
from covt_eval.report.content import labels
from covt_eval.report.content.numbers import duration, nice_ticks, percent, points, tick_texts
from covt_eval.report.content.run_files import Record, RunFiles, list_or_empty, number, object_or_empty
from covt_eval.statistics.intervals import wilson_interval


@dataclass(frozen=True)
class Difference:
    """A paired difference in percentage points, placed on a track from `-reach` to `reach` (positions in %)."""

    name: str
    value: str
    interval: str
    at: float
    low: float
    high: float
    verdict: str  # "above", "below" or "unclear"


@dataclass(frozen=True)
class Differences:
    rows: list[Difference]
    ticks: list[tuple[float, str]]


def interval_of(summary: Record, group: str, key: str, share: float) -> tuple[float, float] | None:
    """The interval in `ci`, or Wilson's from n_test where the summary gives none."""
    stored = list_or_empty(object_or_empty(object_or_empty(summary.get("ci")).get(group)).get(key))
    if len(stored) == 2:
        low, high = number(stored[0]), number(stored[1])
        if low is not None and high is not None:
            return low, high
    n = number(summary.get("n_test"))
    if not n:
        return None
    bounds = wilson_interval(share * n, int(n))
    return bounds.low, bounds.high


def share_chart(run: RunFiles, group: str, names: dict[str, str], notes: dict[str, str], label: str) -> BarChart | None:
    """`summary[group]` (shares by key) as bars with intervals and the baselines as lines."""
    shares = {
        key: share
        for key, value in object_or_empty(run.summary.get(group)).items()
        if (share := number(value)) is not None
    }
    if not shares:
        return None
    values: list[Value] = []
    for index, key in enumerate(labels.in_order(list(shares), names)):
        share = shares[key]
        ends = interval_of(run.summary, group, key, share)
        color = labels.color(key, index) if group == "accuracy" else "rl" if key == "keep" else "off"
        values.append(
            Value(
                name=names.get(key, key.replace("_", " ")),
                value=share,
                text=percent(share),
                low=ends[0] if ends else None,
                high=ends[1] if ends else None,
                interval=f"{ends[0] * 100:.1f} to {ends[1] * 100:.1f}" if ends else "",
                note=notes.get(key, ""),
                color=color,
            )
        )
    return bar_chart(
        values, 1.0, SHARE_TICKS, lines=baselines(run.summary), axis="share of test rows answered right", label=label
    )


def baselines(summary: Record) -> list[tuple[float, str]]:
    """(share, name) of the reference lines, ascending."""
    names = {"chance": "chance", "manhattan": "ignoring the holes"}
    found = object_or_empty(summary.get("baseline"))
    lines = [
        (share, f"{names.get(key, key.replace('_', ' '))} {percent(share)}")
        for key, value in found.items()
        if (share := number(value)) is not None
    ]
    return sorted(lines)


def read_difference(summary: Record, key: str) -> tuple[float, float, float] | None:
    entry = object_or_empty(object_or_empty(object_or_empty(summary.get("ci")).get("differences")).get(key))
    value, low, high = (number(entry.get(name)) for name in ("value", "lo", "hi"))
    return (value, low, high) if value is not None and low is not None and high is not None else None


def differences(summary: Record, ablations: bool) -> Differences:
    """The paired differences between models, or of `keep` to the ablations, on one axis that contains 0."""
    keys = object_or_empty(object_or_empty(summary.get("ci")).get("differences"))
    wanted = [key for key in keys if key.startswith("keep-") == ablations]
    found = {key: entry for key in wanted if (entry := read_difference(summary, key)) is not None}
    if not found:
        return Differences([], [])
    low = min(0.0, *(entry[1] for entry in found.values())) - 0.02
    high = max(0.0, *(entry[2] for entry in found.values())) + 0.02

    def place(value: float) -> float:
        return round((value - low) / (high - low) * 100, 2)

    rows = [
        Difference(
            name=difference_name(key, ablations),
            value=points(value),
            interval=f"{points(lo)} to {points(hi)}",
            at=place(value),
            low=place(lo),
            high=place(hi),
            verdict="above" if lo > 0 else "below" if hi < 0 else "unclear",
        )
        for key, (value, lo, hi) in found.items()
    ]
    ticks = nice_ticks(low * 100, high * 100)
    texts = [
        "0" if tick == 0 else text if tick < 0 else f"+{text}"
        for tick, text in zip(ticks, tick_texts(ticks), strict=True)
    ]
    return Differences(rows, [(place(tick / 100), text) for tick, text in zip(ticks, texts, strict=True)])


def difference_name(key: str, ablations: bool) -> str:
    ours, _, base = key.partition("-")
    if ablations:
        return f"Kept − {labels.MODES.get(base, base).lower()}"
    return f"{labels.card_name(ours)} − {labels.short_name(base)}"


def time_chart(summary: Record) -> tuple[BarChart | None, str]:
    """Seconds per phase as bars, in the order they ran, and the total as text."""
    seconds = {
        key: value for key, raw in object_or_empty(summary.get("seconds")).items() if (value := number(raw)) is not None
    }
    total = seconds.pop("total", sum(seconds.values()))
    if not seconds:
        return None, duration(total) if total else ""
    top = max(seconds.values()) or 1.0
    values = [
        Value(name=key.replace("_", " ").replace("/", " · "), value=value, text=duration(value), color="time")
        for key, value in seconds.items()
    ]
    return bar_chart(values, top * 1.02, [], label="Seconds per phase"), duration(total)
