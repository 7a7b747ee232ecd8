"""`summary.json` (contract E) and the closing table."""

import json
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 1
MODELS = ("plain", "pause", "stage1", "stage2", "sft_more", "rl")
ABLATIONS = ("keep", "zeros", "noise", "shuffle", "drop_latents")
DIFFERENCES = (("stage2", "pause"), ("rl", "stage2"), ("rl", "sft_more"))


def read_correct(folder: Path, label: str, mode: str) -> list[float]:
    """Outcomes of the rows of an evaluation, in row order."""
    lines = (folder / f"{label}.{mode}.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(json.loads(line)["correct"]) for line in lines]


class Answer(NamedTuple):
    """What is read of an answer to find its latent spans."""

    token_ids: list[int]
    latent_spans: list[tuple[int, int]]


def trigger_rates(folder: Path) -> dict[str, float]:
    """Share of answers with a well-formed latent span, by model."""
    from covt_rewards.latents import span_usage

    rates: dict[str, float] = {}
    for label in MODELS:
        lines = (folder / f"{label}.keep.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        rates[label] = span_usage([Answer(one["token_ids"], one["latent_spans"]) for one in records]).used
    return rates


def summarize(
    folder: Path, seed: int, baseline: dict[str, float], seconds: dict[str, float] | None = None
) -> dict[str, Any]:
    """Accuracies, ablation of the RL model, 95 % intervals, paired differences, seconds by phase.

    Args:
        folder: holds the evaluations, `<model>.<mode>.jsonl`.
        seed: of the quickstart.
        baseline: accuracies of uninformed answers.
        seconds: by phase.
    """
    from covt_eval.statistics.intervals import accuracy_interval, paired_difference

    outcomes = {label: read_correct(folder, label, "keep") for label in MODELS}
    ablated = {mode: read_correct(folder, "rl", mode) for mode in ABLATIONS}
    models = {label: accuracy_interval(values) for label, values in outcomes.items()}
    modes = {mode: accuracy_interval(values) for mode, values in ablated.items()}
    differences = {f"{ours}-{base}": paired_difference(outcomes[ours], outcomes[base]) for ours, base in DIFFERENCES}
    differences |= {
        f"keep-{mode}": paired_difference(ablated["keep"], ablated[mode]) for mode in ABLATIONS if mode != "keep"
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "n_test": len(outcomes["rl"]),
        "accuracy": {label: one.value for label, one in models.items()},
        "ablation": {mode: one.value for mode, one in modes.items()},
        "ci": {
            "accuracy": {label: [one.low, one.high] for label, one in models.items()},
            "ablation": {mode: [one.low, one.high] for mode, one in modes.items()},
            "differences": {
                name: {"value": one.value, "lo": one.low, "hi": one.high} for name, one in differences.items()
            },
        },
        "baseline": baseline,
        "seconds": seconds or {},
    }


NAMES = {
    "plain": "plain: no latents",
    "pause": "pause tokens: no feedback",
    "stage1": "latents, stage 1",
    "stage2": "latents, stage 2",
    "sft_more": "stage 2 continued",
    "rl": "latents + GRPO",
}
ABLATED = {
    "zeros": "its latents zeroed",
    "noise": "its latents noised",
    "shuffle": "another row's latents",
    "drop_latents": "its latents dropped",
}


def table(summary: dict[str, Any]) -> str:
    """The closing table, one line a model and one an ablation; a second set of test rows follows."""
    lines = _table(summary, "test rows")
    if "generated" in summary:
        lines += ["", *_table(summary["generated"], "generated test rows")]
    return "\n".join(lines)


def _table(summary: dict[str, Any], rows: str) -> list[str]:
    lines = [f"accuracy on {summary['n_test']} {rows} (95 % interval)"]
    accuracy, intervals = summary["accuracy"], summary["ci"]
    for label, name in NAMES.items():
        low, high = intervals["accuracy"][label]
        lines.append(f"  {name:<28}{accuracy[label]:7.1%}   [{low:.1%}, {high:.1%}]")
    for mode, name in ABLATED.items():
        low, high = intervals["ablation"][mode]
        lines.append(f"    {name:<26}{summary['ablation'][mode]:7.1%}   [{low:.1%}, {high:.1%}]")
    for name, value in summary["baseline"].items():
        lines.append(f"  {name:<28}{value:7.1%}")
    lines.append("differences on the same rows (95 % interval)")
    for name, one in intervals["differences"].items():
        lines.append(f"  {name:<28}{one['value']:+7.1%}   [{one['lo']:+.1%}, {one['hi']:+.1%}]")
    return lines
