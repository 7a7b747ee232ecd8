"""Latents decoded to sets of cells: one small map per latent, and how often each latent's set is exactly right."""

import json
from dataclasses import dataclass

from covt_eval.report.charts.bars import SHARE_TICKS, BarChart, Value, bar_chart
from covt_eval.report.content.numbers import percent
from covt_eval.report.content.run_files import Record, RunFiles, list_or_empty, number, object_or_empty
from covt_eval.statistics.intervals import wilson_interval

KINDS = ("hole", "wave", "agent", "before")
STATES = ("right", "wrong", "missed")
MOST_CELLS = 64
"""Cells per side that a map may have."""


@dataclass(frozen=True)
class DecodedCell:
    """A marked cell; `state` is `right`, `wrong` (read, but not in the set) or `missed` (in the set, but not read)."""

    row: int
    column: int
    kind: str
    state: str


@dataclass(frozen=True)
class DecodedSet:
    """What one latent says, on a map of `size` × `size` cells."""

    name: str
    size: int
    cells: list[DecodedCell]

    @property
    def is_right(self) -> bool:
        return all(cell.state == "right" for cell in self.cells)


def read_decoded(sample: Record) -> list[DecodedSet]:
    """The decoded latents of a row; entries that are none are left out."""
    found: list[DecodedSet] = []
    for entry in map(object_or_empty, list_or_empty(sample.get("decoded"))):
        size = number(entry.get("size"))
        if size is None or not 1 <= size <= MOST_CELLS:
            continue
        cells = [
            DecodedCell(int(cell[0]), int(cell[1]), str(cell[2]), state)
            for state in STATES
            for cell in map(list_or_empty, list_or_empty(entry.get(state)))
            if len(cell) == 3 and number(cell[0]) is not None and number(cell[1]) is not None and cell[2] in KINDS
        ]
        found.append(DecodedSet(str(entry.get("name") or ""), int(size), cells))
    return found


@dataclass(frozen=True)
class ExactSets:
    """A bar per latent, the number of rows they are counted over, and how well thumbnails themselves are read."""

    chart: BarChart
    rows: int
    reader: str


def exact_sets(run: RunFiles) -> ExactSets | None:
    """How often each latent's set is exactly right, from `latents.json`; None where there is none."""
    path = run.folder / "latents.json"
    if not path.is_file():
        return None
    try:
        content = object_or_empty(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        run.notes.append(f"latents.json is not readable JSON ({error}) and was left out.")
        return None
    rows, reader = number(content.get("rows")), number(content.get("reader"))
    values: list[Value] = []
    for place, entry in enumerate(map(list_or_empty, list_or_empty(content.get("latents"))), start=1):
        share = number(entry[1]) if len(entry) == 2 else None
        if share is None or not rows or not 0 <= share <= 1:
            continue
        bounds = wilson_interval(share * rows, int(rows))
        values.append(
            Value(
                name=f"{place} · {entry[0]}",
                value=share,
                text=percent(share),
                low=bounds.low,
                high=bounds.high,
                interval=f"{bounds.low * 100:.1f} to {bounds.high * 100:.1f}",
                color="rl",
            )
        )
    if not values or not rows:
        return None
    chart = bar_chart(
        values, 1.0, SHARE_TICKS, axis="share of rows whose set is exactly right", label="Latents that say their set"
    )
    return ExactSets(chart, int(rows), percent(reader or 0.0))
