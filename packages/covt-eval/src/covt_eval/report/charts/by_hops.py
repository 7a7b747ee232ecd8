"""Accuracy by the number of hops a row takes, one line per model."""

from collections import defaultdict

from covt_eval.report.charts.lines import LineChart, Series, line_chart
from covt_eval.report.charts.maps import hops
from covt_eval.report.content import labels
from covt_eval.report.content.run_files import Record, RunFiles, number, object_or_empty
from covt_eval.statistics.intervals import wilson_interval

MOST_LINES = 8  # more can't be told apart
LEAST_ROWS = 10  # a share of fewer rows says nothing and makes the lines jump
BANDED = ("pause", "rl")  # the two that the question is about; six bands would hide one another


def main_mode(run: RunFiles, label: str) -> str | None:
    """The mode a model is judged in: `keep`, or for models without latents the only mode they have."""
    modes = [mode for model, mode in run.evals if model == label]
    return "keep" if "keep" in modes else modes[0] if modes else None


def model_labels(run: RunFiles) -> list[str]:
    return labels.in_order(list({label for label, _ in run.evals}), labels.MODELS)


def count_by_hops(rows: list[Record]) -> dict[int, tuple[int, int]]:
    """hops → (right, all), lengths with at least LEAST_ROWS rows."""
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        length = hops(object_or_empty(row.get("meta")), row.get("gold"))
        if length is not None:
            counts[length][0] += bool(number(row.get("correct")) or row.get("correct") is True)
            counts[length][1] += 1
    return {length: (right, total) for length, (right, total) in sorted(counts.items()) if total >= LEAST_ROWS}


def hops_chart(run: RunFiles) -> LineChart | None:
    series: list[Series] = []
    for index, label in enumerate(model_labels(run)):
        mode = main_mode(run, label)
        counts = count_by_hops(list(run.evals[label, mode].values())) if mode else {}
        if len(counts) < 2:
            continue
        bounds = {x: wilson_interval(right, total) for x, (right, total) in counts.items()} if label in BANDED else {}
        band = [(float(x), one.low, one.high) for x, one in bounds.items()]
        points = [(float(x), right / total) for x, (right, total) in counts.items()]
        series.append(Series(labels.short_name(label), labels.color(label, index), points, band, dots=True))
    if not series or len(series) > MOST_LINES:
        return None
    return line_chart(
        "Accuracy by number of hops",
        "share of rows answered right",
        "hops from start to answer",
        series,
        share=True,
        whole_x=True,
    )
