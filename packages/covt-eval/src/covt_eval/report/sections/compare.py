"""Several runs on one page: their evaluations in one table, and one chart per metric with one line per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from covt_eval.eval_errors import ReportError
from covt_eval.report.charts.curves import SKIP, STEP, points_of
from covt_eval.report.charts.lines import LineChart, Series, line_chart
from covt_eval.report.content import labels
from covt_eval.report.content.run_files import Record, RunFiles, read_run
from covt_runtime.metrics.metric_table import unit_of

SHARES = {"eval/accuracy"}
MAIN_METRICS = ("eval/accuracy", "reward", "rewards/accuracy/mean", "necessity/nu", "ce", "align", "loss")


def read_runs(folders: Sequence[Path]) -> RunFiles:
    """One folder as it is, or several as one: models and curves carry the name of the run they are from.

    Raises:
        ReportError: a folder that holds nothing to show, or two with one name.
    """
    if len(folders) == 1:
        return read_run(folders[0])
    names = short_names([folder.resolve() for folder in folders])
    runs = dict(zip(names, map(read_run, folders), strict=True))
    pictured = next((run for run in runs.values() if run.samples), next(iter(runs.values())))

    def label(name: str, own: str) -> str:
        return f"{name}: {labels.short_name(own)}" if own else name

    return RunFiles(
        folder=pictured.folder,
        summary={},
        task=pictured.task,
        settings={},
        configs={label(name, own): found for name, run in runs.items() for own, found in run.configs.items()},
        metrics={label(name, own): found for name, run in runs.items() for own, found in run.metrics.items()},
        evals={(label(name, own), mode): rows for name, run in runs.items() for (own, mode), rows in run.evals.items()},
        samples=pictured.samples,
        notes=[f"{name}: {note}" for name, run in runs.items() for note in run.notes],
        names=tuple(names),
    )


def short_names(folders: Sequence[Path]) -> list[str]:
    """The fewest last parts of the paths that tell them apart."""
    if len(set(folders)) < len(folders):
        raise ReportError(f"the same folder twice: {', '.join(map(str, folders))}", "name each run once")
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different parts")


def compared_curves(run: RunFiles) -> list[LineChart]:
    """Draw one chart per metric and kind of training, with one line per run; MAIN_METRICS come first."""
    if not run.names:
        return []
    charts: list[tuple[tuple[int, str], LineChart]] = []
    for kind, metrics in _by_kind(run).items():
        for metric in sorted({key for lines in metrics.values() for line in lines for key in line} - SKIP):
            series = [
                Series(name, labels.SPARE[run.names.index(name) % len(labels.SPARE)], points)
                for name, lines in metrics.items()
                if (points := points_of(lines, metric))
            ]
            if series:
                place = MAIN_METRICS.index(metric) if metric in MAIN_METRICS else len(MAIN_METRICS)
                title = f"{metric}, {kind}" if kind else metric
                charts.append(
                    ((place, title), line_chart(title, unit_of(metric), STEP, series, share=metric in SHARES))
                )
    return [chart for _, chart in sorted(charts, key=lambda found: found[0])]


def _by_kind(run: RunFiles) -> dict[str, dict[str, list[Record]]]:
    """Kind of training ("RL", "latents", … or "" for a run's own) → run → its records."""
    found: dict[str, dict[str, list[Record]]] = {}
    for label, lines in run.metrics.items():
        name = next(name for name in run.names if label == name or label.startswith(f"{name}: "))
        found.setdefault(label[len(name) + 2 :], {})[name] = lines
    return found
