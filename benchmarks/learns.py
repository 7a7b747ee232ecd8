"""What GRPO adds to a supervised start of the generated `trace` task, and what the necessity reward has to do with it.

    python benchmarks/learns.py [--seeds 3] [--out covt-learns] [--figure FILE.svg] [--json]

Each seed trains one latent model whose demonstrations of up to six hops mostly answer without latents, and from it, on
the same server: GRPO with format, accuracy and necessity; GRPO without necessity (ν is measured, at weight 0); stage 2
continued for as many seconds as the first. All are judged on 600 held-out maps, with their latents and without. This is
no comparison of speeds, so there is no base. After an interruption, the same command continues after the last finished
phase.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import harness
from curves_svg import Curve, draw

from covt.exporting import export_checkpoint
from covt.quickstart.run import Quickstart
from covt.quickstart.state import State
from covt.quickstart.summary import ABLATIONS, read_correct
from covt.quickstart.tasks import Task
from covt_data.store.prepared_set import PreparedSet
from covt_eval.statistics.intervals import paired_difference
from covt_runtime.metrics.progress import Progress

DATA = {"n_train": 5000, "n_prompts": 6000, "n_test": 600, "direct_hops": 6, "direct_share": 0.8}
# With fewer latents to learn from, stage 1 needs longer than the quickstart's.
STAGE1 = {"stage1.steps": 1400}
STEPS, VALIDATE, ROWS = 60, 10, 200
REWARDS = {
    "rl": "format=0.2,accuracy=1.0,necessity=1.0",
    "rl_without": "format=0.2,accuracy=1.0,necessity=0.0",
}
LABELS = ("start", "rl", "rl_without", "sft_more")
NAMES = {"rl": "GRPO", "rl_without": "without necessity", "sft_more": "stage 2 continued"}
COLORS = {"rl": "#0b6e4f", "rl_without": "#c77d0a", "sft_more": "#6b7280"}


class Learning(Quickstart):
    """The phases of one seed."""

    def phases(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        trainings = [(name, lambda name=name: self.reinforce(name)) for name in REWARDS]
        return [
            ("data", self.data),
            ("model", self.model),
            ("latent", lambda: self.train("latent", STAGE1)),
            *trainings,
            ("sft_more", self.sft_more),
            ("evaluate", self.evaluate),
            ("report", self.report),
        ]

    def reinforce(self, name: str) -> dict[str, Any]:
        changes = {
            "rewards.use": REWARDS[name],
            "algorithm.steps": STEPS,
            "eval.every": VALIDATE,
            "eval.rows": ROWS,
        }
        return self.rl(name, changes)

    def evaluate(self) -> dict[str, Any]:
        rows = list(PreparedSet(self.out / "data").rows("test"))
        folders = {"start": self.state.result("latent")["hf"], "sft_more": self.state.result("sft_more")["hf"]}
        for name in REWARDS:
            folders[name] = str(export_checkpoint(self.out / name, self.out / "exported" / name)[2])
        return {label: self.judge(label, folders[label], rows, ABLATIONS, self.out / "eval") for label in LABELS}

    def report(self) -> dict[str, Any]:
        seconds = {name: done["seconds"] for name, done in self.state.done.items()}
        return {"summary": {"seed": self.seed, "seconds": seconds} | outcomes(self.out)}


def outcomes(folder: Path) -> dict[str, Any]:
    """Accuracy by model and mode, and the paired differences that the training is judged by."""
    right = {(label, mode): read_correct(folder / "eval", label, mode) for label in LABELS for mode in ABLATIONS}

    def against(ours: tuple[str, str], base: tuple[str, str]) -> dict[str, float]:
        return asdict(paired_difference(right[ours], right[base]))

    return {
        "accuracy": {label: {mode: statistics.fmean(right[label, mode]) for mode in ABLATIONS} for label in LABELS},
        "differences": {
            f"{ours} - {base}": against((ours, "keep"), (base, "keep"))
            for ours, base in [(name, base) for name in REWARDS for base in ("start", "sft_more")]
            + [("rl", "rl_without")]
        }
        | {f"{name}: keep - drop_latents": against((name, "keep"), (name, "drop_latents")) for name in REWARDS},
    }


def run_seed(seed: int, out: Path, progress: Progress) -> dict[str, Any]:
    """One seed, from where it was left."""
    task = Task("trace", "tiny", "tiny", DATA)
    folder = out / f"seed-{seed}"
    settings = {"seed": seed, "data": DATA, "stage1": STAGE1, "steps": STEPS, "rewards": REWARDS}
    return Learning(task, folder, seed, State(folder, settings), progress).run()


def validations(folder: Path, metric: str) -> list[tuple[float, float]]:
    """(minutes since the run's first record, accuracy) of its validations."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [((line["time"] - lines[0]["time"]) / 60, line[metric]) for line in lines if metric in line]


def curves(folders: Sequence[Path]) -> Iterable[Curve]:
    """A line a seed: accuracy while a model trains; dashed without the latents."""
    for number, folder in enumerate(folders):
        for name, label in NAMES.items():
            named = label if number == 0 else ""
            yield Curve(named, COLORS[name], validations(folder / name, "eval/accuracy"))
            if name in REWARDS:
                dropped = validations(folder / name, "eval/accuracy_drop_latents")
                yield Curve(named and f"{named}, latents dropped", COLORS[name], dropped, dashed=True)


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """What people read: a line a seed and model."""
    lines = [f"{'seed':<6}{'model':<14}{'accuracy':>9}{'dropped':>9}{'minutes':>9}   against the start"]
    for summary in summaries:
        for label in LABELS:
            modes = summary["accuracy"][label]
            seconds = summary["seconds"].get("latent" if label == "start" else label, 0.0)
            line = (
                f"{summary['seed']:<6}{label:<14}{modes['keep']:>9.1%}{modes['drop_latents']:>9.1%}{seconds / 60:>9.1f}"
            )
            change = summary["differences"].get(f"{label} - start")
            lines.append(line + (_change(change) if change else ""))
        change = summary["differences"]["rl - sft_more"]
        lines.append(f"{summary['seed']:<6}rl against stage 2 continued{_change(change)}")
    return "\n".join(lines)


def _change(one: dict[str, float]) -> str:
    return f"   {one['value']:+.1%} [{one['low']:+.1%}, {one['high']:+.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="What GRPO adds to a supervised start, over several seeds.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("covt-learns"))
    parser.add_argument("--figure", type=Path, help="SVG of the validations")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with Progress() as progress:
        summaries = [run_seed(seed, options.out, progress) for seed in range(options.seeds)]
    if options.figure:
        folders = [options.out / f"seed-{seed}" for seed in range(options.seeds)]
        options.figure.write_text(draw(list(curves(folders)), "minutes", "accuracy on held-out maps"), encoding="utf-8")
    result = {"device": harness.device(), "versions": harness.versions(), "seeds": summaries}
    print(json.dumps(result, indent=2) if options.json else table(summaries))


if __name__ == "__main__":
    main()
