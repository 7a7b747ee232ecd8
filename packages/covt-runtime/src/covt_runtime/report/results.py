"""Accuracies, ablations and differences of a quickstart as charts, and the sentence that sums them up."""

from dataclasses import dataclass
from typing import Any

from covt_runtime.report import labels
from covt_runtime.report.bars import SHARE_TICKS, BarChart, Value, bar_chart
from covt_runtime.report.files import Record, RunFiles, number, object_or_empty
from covt_runtime.report.numbers import duration, nice_ticks, percent, points, wilson


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


def interval_of(summary: Record, group: str, key: str, share: float) -> tuple[float, float] | None:
    """The interval in `ci`, or Wilson's from n_test where the summary gives none."""
    stored = object_or_empty(object_or_empty(summary.get("ci")).get(group)).get(key)
    if isinstance(stored, list) and len(stored) == 2:
        low, high = number(stored[0]), number(stored[1])
        if low is not None and high is not None:
            return low, high
    n = number(summary.get("n_test"))
    return wilson(share * n, int(n)) if n else None


def share_chart(run: RunFiles, group: str, names: dict[str, str], notes: dict[str, str], label: str) -> BarChart | None:
    """`summary[group]` (shares by key) as bars with intervals and the baselines as lines."""
    shares = {key: share for key, value in object_or_empty(run.summary.get(group)).items() if (share := number(value)) is not None}
    if not shares:
        return None
    values: list[Value] = []
    for index, key in enumerate(labels.in_order(list(shares), names)):
        share = shares[key]
        ends = interval_of(run.summary, group, key, share)
        if group == "accuracy":
            color = labels.color(key, index)
        else:
            color = "rl" if key == "keep" else "off"
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
    return bar_chart(values, 1.0, SHARE_TICKS, lines=baselines(run.summary), axis="share of test rows answered right", label=label)


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


def differences(summary: Record) -> tuple[list[Difference], list[tuple[float, str]]]:
    """The paired differences and the ticks of their common axis."""
    keys = list(object_or_empty(object_or_empty(summary.get("ci")).get("differences")))
    found = {key: entry for key in keys if (entry := read_difference(summary, key)) is not None}
    if not found:
        return [], []
    low = min(0.0, *(entry[1] for entry in found.values())) - 0.02
    high = max(0.0, *(entry[2] for entry in found.values())) + 0.02

    def place(value: float) -> float:
        return round((value - low) / (high - low) * 100, 2)

    rows = []
    for key, (value, lo, hi) in found.items():
        ours, _, base = key.partition("-")
        rows.append(
            Difference(
                name=f"{labels.model_name(ours)} − {labels.model_name(base)}",
                value=points(value),
                interval=f"{points(lo)} to {points(hi)}",
                at=place(value),
                low=place(lo),
                high=place(hi),
                verdict="above" if lo > 0 else "below" if hi < 0 else "unclear",
            )
        )
    ticks = nice_ticks(low * 100, high * 100)
    return rows, [(place(tick / 100), "0" if tick == 0 else f"{tick:+.0f}".replace("-", "−")) for tick in ticks]


def time_chart(summary: Record) -> tuple[BarChart | None, str]:
    """Seconds per phase as bars, in the order they ran, and the total as text."""
    seconds = {key: value for key, raw in object_or_empty(summary.get("seconds")).items() if (value := number(raw)) is not None}
    total = seconds.pop("total", sum(seconds.values()))
    if not seconds:
        return None, duration(total) if total else ""
    top = max(seconds.values()) or 1.0
    values = [
        Value(name=key.replace("_", " ").replace("/", " · "), value=value, text=duration(value), color="time")
        for key, value in seconds.items()
    ]
    return bar_chart(values, top * 1.02, [], label="Seconds per phase"), duration(total)


def headline(run: RunFiles) -> tuple[str, str]:
    """One sentence with the result, and one that qualifies it; both follow from the intervals, not from hope."""
    accuracy = {key: number(value) for key, value in object_or_empty(run.summary.get("accuracy")).items()}
    best_label = next((key for key in ("rl", "stage2", "stage1") if accuracy.get(key) is not None), None)
    if best_label is None:
        return training_headline(run)
    rows = f"{run.summary['n_test']} held-out rows" if run.summary.get("n_test") else "held-out rows"
    gap = read_difference(run.summary, "stage2-pause")
    best = accuracy[best_label] or 0.0
    if gap is None:
        first = f"{labels.model_name(best_label)}: {percent(best)} of {rows}"
    elif gap[1] > 0:
        first = f"Latents beat pause tokens by {gap[0] * 100:.1f} points on {rows}"
    elif gap[2] < 0:
        first = f"Latents fall {-gap[0] * 100:.1f} points short of pause tokens on {rows}"
    else:
        first = f"No measurable difference between latents and pause tokens on {rows}"
    return first, " ".join(filter(None, [levels_sentence(accuracy), rl_sentence(run.summary), ablation_sentence(run.summary)]))


def levels_sentence(accuracy: dict[str, float | None]) -> str:
    named = {"plain": "plain", "pause": "pause tokens", "stage2": "latents"}
    parts = [f"{name} {percent(share)}" for key, name in named.items() if (share := accuracy.get(key)) is not None]
    return f"Same model, same steps, same tokens: {', '.join(parts)}." if len(parts) > 1 else ""


def rl_sentence(summary: Record) -> str:
    gain = read_difference(summary, "rl-stage2")
    if gain is None:
        return ""
    span = f"{points(gain[0])} points (95 % interval {points(gain[1])} to {points(gain[2])})"
    if gain[1] > 0:
        return f"Reinforcement learning adds to it: {span}."
    return f"Reinforcement learning makes it worse: {span}." if gain[2] < 0 else f"Reinforcement learning changes nothing measurable: {span}."


def ablation_sentence(summary: Record) -> str:
    shares = {key: share for key, raw in object_or_empty(summary.get("ablation")).items() if (share := number(raw)) is not None}
    keep = shares.pop("keep", None)
    if keep is None or not shares:
        return ""
    mode, best = max(shares.items(), key=lambda item: item[1])
    name = {"zeros": "zeroed", "noise": "replaced by noise", "shuffle": "swapped with another row's", "drop_latents": "dropped"}
    verdict = "the answer comes through the latents" if keep - best >= 0.4 else "the answer hardly depends on them" if keep - best < 0.05 else "part of the answer comes through them"
    return f"Once the latents are {name.get(mode, mode)}, {percent(best)} is left of {percent(keep)}: {verdict}."


def training_headline(run: RunFiles) -> tuple[str, str]:
    """For a folder that holds one training run and no comparison."""
    for metric, words in (("reward", "The reward went"), ("eval/accuracy", "Accuracy went"), ("ce", "Cross-entropy went"), ("loss", "The loss went")):
        for lines in run.metrics.values():
            values: list[tuple[Any, float]] = [(line.get("step"), value) for line in lines if (value := number(line.get(metric))) is not None]
            if len(values) >= 2:
                tail = [value for _, value in values[-max(1, len(values) // 20) :]]
                return f"{words} from {values[0][1]:.3g} to {sum(tail) / len(tail):.3g} in {values[-1][0]} steps", ""
    return "Nothing to compare yet", "This folder holds no accuracies and no training curve."
