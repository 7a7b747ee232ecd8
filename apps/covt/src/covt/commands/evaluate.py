"""`covt eval`: accuracy of models on prepared sets, with their latents kept or ablated."""

from pathlib import Path
from typing import Annotated, Any

import typer

from covt.output import emit
from covt_model.latents.latent_modes import EVALUATION_MODES


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="An exported model's folder, or NAME=FOLDER.")],
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="Prepared sets.")],
    also: Annotated[
        list[str] | None, typer.Option(help="Another model for the same table; may be given several times.")
    ] = None,
    modes: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"With commas: {', '.join(EVALUATION_MODES)}."),
    ] = "keep",
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    rows: Annotated[int | None, typer.Option(help="Rows to judge; all without it.")] = None,
    min_pixels: Annotated[
        int | None, typer.Option(help="Pictures with fewer pixels are enlarged, as data.min_pixels does in a training.")
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Pictures with more pixels are made smaller, as data.max_pixels does.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers a row: more than 1 gives pass@k and majority.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens, latent ones included.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once; latencies depend on it.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of sampling, noise and shuffling.")] = 0,
    force_start: Annotated[
        bool,
        typer.Option(
            "--force-start",
            help="Every answer begins with a latent span: tells a model that does not open one from latents that do "
            "not help.",
        ),
    ] = False,
    base_url: Annotated[str, typer.Option(help="A running `covt serve` of MODEL; one is started without it.")] = "",
    out: Annotated[
        Path, typer.Option(help="Folder of the per-answer JSONL files and summary.json; the same folder continues.")
    ] = Path("eval"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Accuracy with 95 % intervals, latents kept or ablated.

    Every row is answered through a vLLM server. One table for all models, sets and latent modes, by category too;
    ablations and further models are compared over the same rows, with paired intervals. An interrupted evaluation goes
    on with the same command.
    """
    from covt_eval.evaluation.evaluate_models import EvalPlan, evaluate_models, name_folders
    from covt_runtime.metrics.progress import Progress

    plan = EvalPlan(
        models=name_folders([Path(one) for one in (model, *(also or []))]),
        data=name_folders([Path(one) for one in data]),
        modes=tuple(mode.strip() for mode in modes.split(",")),
        split=split,
        rows=rows,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        samples=samples,
        temperature=temperature,
        max_tokens=max_tokens,
        concurrency=concurrency,
        seed=seed,
        force_start=force_start,
    )
    with Progress() as progress:
        summary = evaluate_models(plan, out, progress=progress, base_url=base_url)
    emit(summary, as_json=as_json, text=f"{table(summary)}\n\n{out}/summary.json")


def table(summary: dict[str, Any]) -> str:
    """The results for people: one line a model, set and mode, then one a category."""
    lines = [("model", "data", "latents", "accuracy [95 %]", "difference [95 %]", "triggered", "tokens", "median s")]
    for one in summary["results"]:
        difference = one.get("minus_keep") or one.get("minus_first")
        seconds = one["seconds"]
        lines.append(
            (
                one["model"],
                one["data"],
                one["mode"],
                share(one["accuracy"]),
                points(difference) if difference else "",
                f"{one['latents']['trigger_rate']['value']:.1%}",
                f"{one['tokens']['completion']:.1f}",
                f"{seconds['p50']:.2f}" if seconds else "",
            )
        )
        for name, value in extras(one):
            lines.append(("", "", f"  {name}", share(value), "", "", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def extras(one: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """pass@k, majority, other judges and categories of one result."""
    found = [(f"pass@{k}", value) for k, value in one.get("pass_at", {}).items()]
    if "majority" in one:
        found.append((f"majority of {one['samples']}", one["majority"]))
    found += [(f"judge {name}", value) for name, value in one.get("judges", {}).items()]
    return found + [(f"{name} (n={value['rows']:.0f})", value) for name, value in one["by_category"].items()]


def share(value: dict[str, float]) -> str:
    return f"{value['value']:6.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def points(value: dict[str, float]) -> str:
    return f"{100 * value['value']:+.1f} [{100 * value['low']:+.1f}, {100 * value['high']:+.1f}]"
