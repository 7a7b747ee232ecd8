"""The memory plan of `covt sft --dry-run` against the measured peak of a rank, at four sizes.

tiny: the model of the tiny recipe; 135m: SmolLM2-135M with a fresh vision tower, all weights trained on rows of about
500 tokens; 3b-lora: 3B with adapters; 3b-full: 3B at a twelfth of its depth, all weights trained. Each trains both
stages on two ranks, saves checkpoints and exports. The goal is 10 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
from made_rows import COVT, prepare_made
from process_memory import GIB, run_watched
from real_model import write_random

GOAL = 0.10
ROWS = 16


@dataclass(frozen=True)
class Size:
    """A model, and how it is trained."""

    build: Callable[[Path], Path | str]
    settings: dict[str, Any] = field(default_factory=dict)
    words: int = 40
    """Words of a row, of about one token each."""


def smollm2(folder: Path) -> Path:
    out = folder / "smollm2"
    subprocess.run(
        [COVT, "model", "build", "--text", "smollm2", "--out", str(out), "--vision-depth", "4", "--dtype", "bf16"],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return out


SIZES = {
    "tiny": Size(lambda _: "tiny", {"zero.dtype": "fp32", "zero.gather": "step"}),
    "135m": Size(
        smollm2, {"zero.gather": "step", "data.batch_size": 8, "data.micro_batch": 4},
        words=400,
    ),
    "3b-lora": Size(
        lambda folder: write_random(folder / "3b", "3b"),
        {"lora.rank": 8, "zero.gather": "module", "zero.max_live_parameters": 0, "zero.max_reuse_distance": 0,
         "zero.prefetch_bucket_size": 0, "data.batch_size": 2, "data.micro_batch": 1, "latent.size": 2,
         "latent.selection": "ilvr", "model.gradient_checkpointing": "true"},
    ),
    "3b-full": Size(
        lambda folder: write_random(folder / "3b-part", "3b", 1 / 12),
        {"zero.gather": "module", "data.batch_size": 2, "data.micro_batch": 1},
    ),
}  # fmt: skip


def prepared(folder: Path, words: int) -> Path:
    """A set whose rows have so many words."""
    out = folder / f"rows-{words}"
    return out if out.is_dir() else prepare_made(out, ROWS, words=words, side=224)


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Plan and measured peak of the fullest rank, and of all processes together."""
    size = SIZES[name]
    settings = {
        "run.name": name, "run.out": folder / "runs", "run.ranks": 2, "model.path": size.build(folder),
        "latent.size": 8, "latent.selection": "ilvr", "latent.normalize": "rms", "latent.required": "false",
        "data.path": prepared(folder, size.words), "data.batch_size": 16, "data.micro_batch": 8,
        "data.sample_cache_gib": 0.01, "data.feature_cache_gib": 0.01, "zero.dtype": "bf16", "stage1.steps": 3,
        "stage2.steps": 3, "eval.rows": 0, "log.save_every": 2, "log.keep": 1, "log.wandb": "disabled",
    } | size.settings  # fmt: skip
    command = [COVT, "sft", "tiny", *(f"{key}={value}" for key, value in settings.items())]
    shown = subprocess.run([*command, "--dry-run", "--json"], stdout=subprocess.PIPE, text=True, check=True).stdout
    plan = json.loads(shown)["plan"]
    run = folder / "runs" / name

    def phase() -> str:
        if (run / "stage1" / "hf").is_dir():
            return "stage 2"
        return "stage 1" if (run / "metrics.jsonl").is_file() else "loading and first step"

    peaks = run_watched(command, folder / f"{name}.log", env={"OMP_NUM_THREADS": "1"}, phase=phase)
    shutil.rmtree(run)
    ranks = {
        phase: max((size for role, size in one.roles.items() if role.startswith("rank")), default=0.0)
        for phase, one in peaks.items()
    }
    planned, measured = sum(part["bytes"] for part in plan["memory"]), max(ranks.values())
    return {
        "size": name,
        "planned_gib": round(planned / GIB, 3),
        "measured_gib": round(measured / GIB, 3),
        "ratio": round(planned / measured, 3),
        "within": abs(planned / measured - 1) <= GOAL,
        "planned_machine_gib": round(plan["memory_of_machine"] / GIB, 2),
        "measured_machine_gib": round(max(one.total for one in peaks.values()) / GIB, 2),
        "phases": {phase: round(size / GIB, 3) for phase, size in ranks.items()},
        "main_gib": round(max(one.roles.get("main", 0.0) for one in peaks.values()) / GIB, 3),
        "parts": {part["part"]: round(part["bytes"] / GIB, 3) for part in plan["memory"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=SIZES, help="only this size; may be given several times")
    parser.add_argument("--folder", type=Path, help="where to write, on a disk with room for two 3B models")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = []
        for name in arguments.size or SIZES:
            results.append(measure(name, Path(folder)))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    result = {"device": harness.device(), "goal": GOAL, "results": results, "versions": harness.versions()}
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for one in results:
        print(f"{one['size']}: plan {one['planned_gib']} GiB, measured {one['measured_gib']} GiB ({one['ratio']:.2f})")


if __name__ == "__main__":
    main()
