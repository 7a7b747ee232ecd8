"""Every evaluation of the folder as one table that the reader can sort: one line per model and latent mode."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from covt_eval.report.content import labels
from covt_eval.report.content.numbers import percent, plain
from covt_eval.report.content.run_files import Record, RunFiles, list_or_empty, number
from covt_eval.statistics.intervals import Interval, wilson_interval


@dataclass(frozen=True)
class Cell:
    """What a table cell shows, and what it is sorted by; `order` is a number, or the text itself."""

    text: str
    order: float | str


@dataclass(frozen=True)
class Scores:
    """A table. head: (name, whether its column holds numbers)."""

    head: list[tuple[str, bool]]
    rows: list[list[Cell]]


COLUMNS = [
    ("model", False),
    ("latents", False),
    ("rows", True),
    ("right", True),
    ("95 % interval", True),
    ("tokens", True),
    ("latent tokens", True),
    ("triggered", True),
    ("spans", True),
    ("cut off", True),
    ("median seconds", True),
]


def scores_table(run: RunFiles) -> Scores | None:
    """The evaluations that lie in the folder; columns that no evaluation fills are left out."""
    keys = sorted(run.evals, key=lambda key: (_place(key[0], labels.MODELS), _place(key[1], labels.MODES)))
    rows = [score_row(model, mode, list(run.evals[model, mode].values())) for model, mode in keys]
    if not rows:
        return None
    filled = [index for index in range(len(COLUMNS)) if any(row[index].text for row in rows)]
    return Scores([COLUMNS[index] for index in filled], [[row[index] for index in filled] for row in rows])


CATEGORY_COLUMNS = [*COLUMNS[:2], ("category", False), *COLUMNS[2:5]]


def category_table(run: RunFiles) -> Scores | None:
    """The evaluations by the rows' categories; None where no evaluation has two of them."""
    rows: list[list[Cell]] = []
    for model, mode in sorted(run.evals, key=lambda key: (_place(key[0], labels.MODELS), _place(key[1], labels.MODES))):
        found: dict[str, list[Record]] = defaultdict(list)
        for record in run.evals[model, mode].values():
            if record.get("category"):
                found[str(record["category"])].append(record)
        if len(found) < 2:
            continue
        for category, records in sorted(found.items()):
            cells = score_row(model, mode, records)
            rows.append([*cells[:2], Cell(category, category), *cells[2:5]])
    return Scores(CATEGORY_COLUMNS, rows) if rows else None


def _place(label: str, known: dict[str, str]) -> tuple[int, str]:
    return (list(known).index(label) if label in known else len(known)), label


def score_row(model: str, mode: str, records: list[Record]) -> list[Cell]:
    right = [value for record in records if (value := outcome(record)) is not None]
    share = statistics.fmean(right) if right else 0.0
    bounds = wilson_interval(sum(right), len(right)) if right else Interval(0.0, 0.0, 0.0)
    tokens = [len(list_or_empty(ids)) for record in records if isinstance(ids := record.get("token_ids"), list)]
    latents = [
        sum(end - start for start, end in list_or_empty(spans))
        for record in records
        if isinstance(spans := record.get("latent_spans"), list)
    ]
    spans = [
        sum(end < len(list_or_empty(record["token_ids"])) for _, end in list_or_empty(record["latent_spans"]))
        for record in records
        if isinstance(record.get("latent_spans"), list) and isinstance(record.get("token_ids"), list)
    ]
    cut = statistics.fmean(record.get("finish_reason") == "length" for record in records)
    seconds = [value for record in records if (value := number(record.get("seconds"))) is not None]
    return [
        Cell(labels.model_name(model), labels.model_name(model)),
        Cell(labels.MODES.get(mode, mode), labels.MODES.get(mode, mode)),
        Cell(str(len(records)), len(records)),
        Cell(percent(share), share),
        Cell(f"{bounds.low * 100:.1f} to {bounds.high * 100:.1f}", bounds.low),
        _mean(tokens),
        _mean(latents),
        Cell(percent(_share(spans)), _share(spans)) if spans else Cell("", -1.0),
        _mean(spans),
        Cell(percent(cut), cut),
        Cell(plain(statistics.median(seconds)), statistics.median(seconds)) if seconds else Cell("", -1.0),
    ]


def outcome(record: Record) -> float | None:
    value = record.get("correct")
    return float(value) if isinstance(value, bool) else number(value)


def _share(counts: list[int]) -> float:
    return statistics.fmean(count > 0 for count in counts)


def _mean(counts: list[int]) -> Cell:
    return Cell(f"{statistics.fmean(counts):.1f}", statistics.fmean(counts)) if counts else Cell("", -1.0)
