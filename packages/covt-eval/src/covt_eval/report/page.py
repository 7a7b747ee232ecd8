"""Put the page together: run files in, one HTML file out."""

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from covt_eval.report.charts import by_hops, curves
from covt_eval.report.content import labels
from covt_eval.report.content.run_files import Record, RunFiles, list_or_empty, object_or_empty
from covt_eval.report.sections import cards, results
from covt_eval.report.sections.compare import compared_curves, read_runs
from covt_eval.report.sections.decoded import exact_sets
from covt_eval.report.sections.headline import headline
from covt_eval.report.sections.scores import category_table, scores_table


@dataclass(frozen=True)
class Setting:
    section: str
    entries: list[tuple[str, str]]


def write_report(runs: Path | Sequence[Path], out: Path) -> Path:
    """Write the report of a run, or of several side by side, to the file `out` and return its path.

    Only files under these folders are read. Missing parts are named on the page. Raises ReportError when a folder
    holds nothing to show, OSError when `out` can't be written. The file appears whole or not at all.
    """
    html = render(read_runs([runs] if isinstance(runs, Path) else runs))
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.write_text(html, encoding="utf-8")
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return out


def render(run: RunFiles) -> str:
    """The page as a string of HTML. Everything from the run is escaped by the template engine."""
    environment = Environment(
        loader=PackageLoader("covt_eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("report.html").render(
        style=Markup(asset("palette.css") + asset("report.css")),
        script=Markup(script),
        script_hash=digest,
        **content(run),
    )


def asset(name: str) -> str:
    return files("covt_eval.report").joinpath("templates", name).read_text(encoding="utf-8")


def content(run: RunFiles) -> dict[str, Any]:
    """What the template shows, by name."""
    first, second = headline(run)
    judged = cards.judged_model(run)
    timing, total = results.time_chart(run.summary)
    made = cards.make_cards(run)
    return {
        "name": " · ".join(run.names) or run.folder.resolve().name,
        "scores": scores_table(run),
        "categories": category_table(run),
        "compared": compared_curves(run),
        "headline": first,
        "standfirst": second,
        "facts": facts(run, total),
        "comparison": results.share_chart(run, "accuracy", labels.MODELS, labels.MODEL_NOTES, "Accuracy by model"),
        "ablation": results.share_chart(
            run, "ablation", labels.MODES, labels.MODE_NOTES, "Accuracy by latent ablation"
        ),
        "gaps": results.differences(run.summary, ablations=False),
        "losses": results.differences(run.summary, ablations=True),
        "exact_sets": exact_sets(run),
        "unseen": curves.unseen(run),
        "hops": by_hops.hops_chart(run),
        "supervised": [] if run.names else curves.supervised(run),
        "reinforcement": [] if run.names else curves.reinforcement(run),
        "health": [] if run.names else curves.health(run),
        "other_curves": [] if run.names else curves.everything_else(run),
        "timing": timing,
        "total": total,
        "settings": settings(run.settings or run.configs.get("", {})),
        "configs": [
            (labels.RUN_NAMES.get(label, label), settings(config)) for label, config in run.configs.items() if label
        ],
        "cards": made,
        "right_cards": sum(1 for card in made if card.chosen and card.chosen.right),
        "wrong_cards": sum(1 for card in made if card.chosen and not card.chosen.right),
        "judged": labels.model_name(judged) if judged else "",
        "notes": run.notes,
        "is_comparison": run.is_comparison and not run.names,
    }


def facts(run: RunFiles, total: str) -> list[tuple[str, str]]:
    """The line of small facts under the headline."""
    found: list[tuple[str, str]] = []
    if run.task:
        found.append(("task", f"{run.task}: {labels.TASKS[run.task]}" if run.task in labels.TASKS else run.task))
    for key, name in (("n_test", "test rows"), ("seed", "seed")):
        if run.summary.get(key) is not None:
            found.append((name, str(run.summary[key])))
    if total:
        found.append(("wall time", total))
    return found


def settings(values: Record) -> list[Setting]:
    """Sections of the resolved configuration: top-level tables by name, loose keys first under no name."""
    loose = [(key, show(value)) for key, value in values.items() if not isinstance(value, dict)]
    sections = [Setting("", loose)] if loose else []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            sections.append(Setting(name, flatten(object_or_empty(value))))
    return sections


def flatten(values: Record, prefix: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            entries += flatten(object_or_empty(value), f"{prefix}{key}.")
        else:
            entries.append((f"{prefix}{key}", show(value)))
    return entries


def show(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(show, list_or_empty(value)))
    return str(value)
