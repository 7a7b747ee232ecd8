"""How fast a pretrained language model learns a task with pictures: SmolLM2-135M on the generated `trace` task.

    python benchmarks/smollm2_learns.py [--out DIR] [--controls pause,plain] [--rl] [--figure FILE.svg] [--json]

Runs the commands of docs/training.md, each once: `covt data prepare`, `covt model build`, `covt sft smollm2`, the same
with `method` set to each control, with --rl `covt rl smollm2` from the latent model, and `covt eval` of all of them,
with the latents replaced too. This is no comparison of speeds, so there is no base. After an interruption, the same
command continues, a training from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
from curves_svg import Curve, draw

COVT = str(Path(sys.executable).with_name("covt"))
DATA = ("size=3", "max_hops=6", "words=true", "n_train=9000", "n_prompts=1500", "n_test=300")
MODES = "keep,zeros,noise,shuffle,drop_latents"
MAX_TOKENS = "48"
COLORS = {"latent": "#0b6e4f", "pause": "#c77d0a", "plain": "#6b7280", "rl": "#1d4ed8"}
SAVE_EVERY = 50
"""Steps that an interruption loses at most."""


def covt(*arguments: str | Path) -> None:
    """Run a command; its progress goes to standard error."""
    subprocess.run([COVT, *map(str, arguments)], check=True, stdout=sys.stderr)


def train(job: str, out: Path, name: str, *settings: str) -> None:
    """Train one model, or go on with it."""
    run = out / name
    if (run / "hf" / "config.json").is_file():
        return
    places = [f"run.out={out}", f"run.name={name}", f"data.path={out / 'data'}"]
    log = ["log.every=1", f"log.save_every={SAVE_EVERY}", "log.keep=1", "log.wandb=disabled"]
    resume = ["--resume"] if any((run / "checkpoints").glob("step_*")) else []
    if not resume:
        shutil.rmtree(run, ignore_errors=True)
    covt(job, "smollm2", *places, *log, *settings, *resume)


def learn(out: Path, methods: Sequence[str], *, with_rl: bool) -> dict[str, Any]:
    """All phases that aren't done yet; returns `covt eval`'s summary."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "data").is_dir():
        covt("data", "prepare", "trace", *DATA, "--out", out / "data")
    model = out / "model"
    if not model.is_dir():
        covt("model", "build", "--text", "smollm2", "--data", out / "data", "--out", model)
    for method in methods:
        train("sft", out, method, f"method={method}", f"model.path={model}")
    if with_rl:
        train("rl", out, "rl", f"model.path={out / 'latent' / 'hf'}")
    judged = [name for name in (*methods, "rl") if (out / name / "hf").is_dir()]
    for name in judged:
        modes = MODES if name in ("latent", "rl") else "keep"
        folder = out / "eval" / name
        covt("eval", f"{name}={out / name / 'hf'}", out / "data", "--modes", modes, "--max-tokens", MAX_TOKENS,
             "--out", folder)  # fmt: skip
    return {name: json.loads((out / "eval" / name / "summary.json").read_text()) for name in judged}


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curves(out: Path, names: Sequence[str]) -> Iterator[Curve]:
    """Accuracy of a model's answers, with its own latents, over optimizer steps; dashed what stage 1 aligns."""
    for name in names:
        lines = records(out / name)
        accuracy = [(float(one["step"]), one["eval/accuracy"]) for one in lines if "eval/accuracy" in one]
        yield Curve(f"{name}: accuracy", COLORS[name], accuracy)
        cosine = [(float(one["step"]), max(0.0, 1 - one["align"])) for one in lines if "align" in one]
        if cosine:
            yield Curve("cosine to targets", COLORS[name], cosine, dashed=True)


def minutes(run: Path) -> float:
    """Minutes of optimizer steps."""
    return sum(one.get("time/step", 0.0) for one in records(run)) / 60


def table(result: dict[str, Any]) -> str:
    """What people read: a line a model and mode."""
    lines = [f"{'model':<10}{'latents':<14}{'accuracy':>9}   [95 %]"]
    for name, summary in result["evaluations"].items():
        for one in summary["results"]:
            share = one["accuracy"]
            lines.append(
                f"{name:<10}{one['mode']:<14}{share['value']:>9.1%}   [{share['low']:.1%}, {share['high']:.1%}]"
            )
    lines += [f"{name}: {count} steps, {spent:.0f} minutes" for name, (count, spent) in result["trainings"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast SmolLM2-135M learns to follow arrows.")
    parser.add_argument("--out", type=Path, default=Path("covt-smollm2"))
    parser.add_argument("--controls", default="", help="methods trained beside latent, with commas: pause, plain")
    parser.add_argument("--rl", action="store_true", help="GRPO from the latent model")
    parser.add_argument("--figure", type=Path, help="SVG of accuracy while training")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = options.out.resolve()
    methods = ["latent", *(name for name in options.controls.split(",") if name)]
    begun = time.monotonic()
    evaluations = learn(out, methods, with_rl=options.rl)
    if options.figure:
        chart = draw(list(curves(out, methods)), "optimizer steps", "accuracy on held-out maps, and cosine")
        options.figure.write_text(chart, encoding="utf-8")
    trainings = {name: (records(out / name)[-1]["step"], minutes(out / name)) for name in evaluations}
    result = {
        "device": harness.device(),
        "versions": harness.versions(),
        "seconds": time.monotonic() - begun,
        "trainings": trainings,
        "evaluations": evaluations,
    }
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
