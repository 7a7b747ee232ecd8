"""Read what a run folder holds. Nothing is computed here, and nothing but files under the folder is opened.

A part that is missing or damaged becomes a line in `RunFiles.notes`, which the page shows; it's never skipped silently.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from covt_eval.eval_errors import ReportError

Record = dict[str, Any]

RUNS = {"plain": "sft/plain", "pause": "sft/pause", "latent": "sft/latent", "sft_more": "sft_more", "rl": "rl", "": "."}


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run folder.

    metrics, configs: by training run (`plain`, `pause`, `latent`, `rl`, `sft_more`; "" is the folder itself).
    evals: by (model label, latent mode), then by row id. names: of the runs, where the page compares several.
    """

    folder: Path
    summary: Record
    task: str
    settings: Record
    configs: dict[str, Record]
    metrics: dict[str, list[Record]]
    evals: dict[tuple[str, str], dict[str, Record]]
    samples: list[Record]
    notes: list[str] = field(default_factory=list[str])
    names: tuple[str, ...] = ()

    @property
    def is_comparison(self) -> bool:
        """Whether this is a quickstart folder, with several models side by side, and not one training run."""
        return bool(self.summary) or bool(self.metrics.keys() - {""})


def read_run(folder: Path) -> RunFiles:
    """Read a run folder; raises ReportError when it isn't there or holds nothing a report could show."""
    if not folder.is_dir():
        raise ReportError(f"{folder} is not a folder", "give the folder of a run, such as runs/quickstart")
    notes: list[str] = []
    summary = read_object(folder / "summary.json", notes)
    configs = {
        label: found for label, name in RUNS.items() if (found := read_object(folder / name / "config.json", notes))
    }
    metrics = {
        label: found for label, name in RUNS.items() if (found := read_lines(folder / name / "metrics.jsonl", notes))
    }
    settings = object_or_empty(summary.get("settings"))
    if "results" in summary:  # what `covt eval` leaves lies in the folder itself
        evals, summary = read_evals(folder, notes), {}
    else:
        evals = read_evals(folder / "eval", notes)
    if not (summary or metrics or evals):
        raise ReportError(
            f"{folder} holds no summary.json, no metrics.jsonl and no eval folder",
            "give the folder of a run that has trained or evaluated at least one step",
        )
    return RunFiles(
        folder=folder,
        summary=summary,
        task=str(summary.get("task") or ""),
        settings=settings,
        configs=configs,
        metrics=metrics,
        evals=evals,
        samples=read_samples(folder, notes),
        notes=notes,
    )


def read_object(path: Path, notes: list[str]) -> Record:
    """The JSON object in `path`; {} when there is none, with a note when the file is damaged."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"{path.name} is not readable JSON ({error}) and was left out.")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{path.name} does not hold a JSON object and was left out.")
        return {}
    return cast("Record", value)


def read_lines(path: Path, notes: list[str]) -> list[Record]:
    """The JSON objects of a .jsonl file; damaged lines (a run that was killed leaves one) are counted in a note."""
    if not path.is_file():
        return []
    records: list[Record] = []
    damaged: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                damaged.append(number)
                continue
            if isinstance(record, dict):
                records.append(cast("Record", record))
            else:
                damaged.append(number)
    if damaged:
        where = ", ".join(map(str, damaged[:5])) + (" …" if len(damaged) > 5 else "")
        notes.append(f"{path.parent.name}/{path.name}: {len(damaged)} damaged line(s) left out (line {where}).")
    return records


def read_evals(folder: Path, notes: list[str]) -> dict[tuple[str, str], dict[str, Record]]:
    """`<label>.<mode>.jsonl` files, rows by id. The label may contain dots; the mode is what follows the last one."""
    evals: dict[tuple[str, str], dict[str, Record]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if path.name == "metrics.jsonl":
            continue
        label, dot, mode = path.stem.rpartition(".")
        if not dot:
            notes.append(f"eval/{path.name} is not named <model>.<mode>.jsonl and was left out.")
            continue
        rows = {row_key(row): row for row in read_lines(path, notes) if "id" in row}
        if rows:
            evals[label, mode] = rows
    return evals


def row_key(row: Record) -> str:
    """The row's id; further samples of the row have their number after it."""
    return f"{row['id']}#{row['sample']}" if row.get("sample") else str(row["id"])


def read_samples(folder: Path, notes: list[str]) -> list[Record]:
    path = folder / "samples" / "samples.json"
    if not path.is_file():
        return []
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        notes.append(f"samples/samples.json is not readable JSON ({error}) and was left out.")
        return []
    if not isinstance(value, list):
        notes.append("samples/samples.json does not hold a list and was left out.")
        return []
    return [sample for sample in map(object_or_empty, list_or_empty(value)) if "id" in sample]


def object_or_empty(value: Any) -> Record:
    """The value if it is a JSON object, else {}."""
    return cast("Record", value) if isinstance(value, dict) else {}


def list_or_empty(value: Any) -> list[Any]:
    """The value if it is a JSON array, else []."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite float, or None for anything else (JSON written by Python may hold NaN and Infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
