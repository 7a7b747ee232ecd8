"""A rehearsal at the published sizes: every command of a training on random weights of their shape, on this machine.

Supervised training of adapters on two ranks (both stages, killed in the second and resumed), export, the server, an
evaluation, and one GRPO step with counterfactual continuations. Pictures have few visual tokens. Each phase reports its
seconds and the most memory it took, beside what the plan (`--dry-run`) says. What such a model answers means nothing;
the output row of the token that begins a latent span is made long, so that there are spans to leave out.

`--depth-fraction 8` keeps an eighth of the layers. GRPO needs trainer and server at once: `--skip rl` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
from made_rows import COVT, prepare_made
from process_memory import MemoryWatch, Peaks, first_to_die, run_watched
from real_model import SIZES, make_eager, write_random

from covt_model.latent_config import LatentConfig

STAGE1, STAGE2 = 2, 2
# A random model is never right: this pays for what differs within a group.
REWARD = """
from covt_rewards import RewardResult

def evenness(group):
    return [RewardResult(float(sum(one.token_ids) % 2)) for one in group.rollouts]
"""
LEAST_MEMORY = {
    "zero.dtype": "bf16",
    "zero.gather": "module",
    "zero.max_live_parameters": 0,
    "zero.max_reuse_distance": 0,
    "zero.prefetch_bucket_size": 0,
}
ENV = {"OMP_NUM_THREADS": "1"}


class Rehearsal:
    """The commands, one after another, in one folder.

    Args:
        folder: for everything that is written; the caller removes it.
        size: `3b` or `7b`.
        depth: the share of the layers.
    """

    def __init__(self, folder: Path, size: str, depth: float) -> None:
        self.folder = folder
        self.run, self.rl_run = folder / "runs" / "sft", folder / "runs" / "rl"
        self.phases: list[dict[str, Any]] = []
        self.base = write_random(folder / "base", size, depth)
        self.data = folder / "data"
        self.exported = folder / "exported"
        prepare_made(self.data, 8, words=24)

    def sft_arguments(self) -> list[str]:
        settings = {
            "run.name": "sft", "run.out": self.folder / "runs", "run.ranks": 2, "model.path": self.base,
            "model.gradient_checkpointing": "true", "latent.size": 2, "latent.selection": "ilvr",
            "latent.normalize": "rms", "lora.rank": 8, "data.path": self.data, "data.batch_size": 2,
            "data.micro_batch": 1, "data.max_length": 512, "data.feature_cache_gib": 0.01,
            "data.sample_cache_gib": 0.01, "stage1.steps": STAGE1, "stage1.lr": 1e-4, "stage2.steps": STAGE2,
            "eval.rows": 0, "log.save_every": 1, "log.keep": 1, "log.wandb": "disabled",
        } | LEAST_MEMORY  # fmt: skip
        return ["sft", "tiny", *(f"{key}={value}" for key, value in settings.items())]

    def rl_arguments(self) -> list[str]:
        settings = {
            "run.name": "rl", "run.out": self.folder / "runs", "run.ranks": 2, "model.path": self.exported,
            "model.gradient_checkpointing": "true", "lora.rank": 8, "data.path": self.data, "data.split": "train",
            "data.micro_batch": 1, "data.max_length": 512, "rollout.prompts": 2, "rollout.samples": 4,
            "rollout.max_tokens": 24,
            "rollout.weight_folder": self.folder / "weights", "rollout.timeout": 1200, "server.dtype": "bfloat16",
            "server.max_model_len": 512, "server.max_num_seqs": 8, "algorithm.steps": 1,
            "algorithm.gap_limit": 10, "rewards.use": f'"format,accuracy,necessity,{self.folder}/reward.py:evenness"',
            "log.save_every": 1, "log.wandb": "disabled",
        } | LEAST_MEMORY  # fmt: skip
        (self.folder / "weights").mkdir(exist_ok=True)
        (self.folder / "reward.py").write_text(REWARD)
        return ["rl", "tiny", *(f"{key}={value}" for key, value in settings.items())]

    def covt(self, name: str, *arguments: str, **options: Any) -> None:
        """Run a command of covt and record its phases."""
        begun = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        log = self.folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.log"
        self.record(name, run_watched([COVT, *arguments], log, env=ENV, **options))
        print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)

    def record(self, name: str, found: dict[str, Peaks]) -> None:
        """Keep the peaks of a command's phases."""
        for phase, peaks in found.items():
            self.phases.append({"phase": name if phase == "run" else f"{name}: {phase}", **peaks.as_dict()})
            print(f"  {self.phases[-1]}", file=sys.stderr, flush=True)

    def plan(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What the dry run says about memory."""
        command = [COVT, *arguments, "--dry-run", "--json"]
        shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(shown.stdout)["plan"]["memory"]

    def sft(self) -> None:
        """Both stages; killed after the first step of the second, and resumed."""
        arguments = self.sft_arguments()
        saved = self.run / "checkpoints" / f"step_{STAGE1 + 1}"
        self.covt("sft", *arguments, phase=self.sft_phase, until=saved.is_dir)
        shutil.rmtree(self.run / "stage1", ignore_errors=True)  # the disk is small
        self.covt("sft, killed and resumed", *arguments, "--resume")
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "loss" in line]
        assert steps == list(range(1, STAGE1 + STAGE2 + 1)), steps
        assert all(line["loss"] == line["loss"] for line in lines if "loss" in line), "a loss is not a number"

    def sft_phase(self) -> str:
        """The phase that the training is in, from what it has written."""
        if (self.run / "stage1" / "hf").is_dir():
            return "stage 2"
        if (self.run / "stage1" / "hf.partial").is_dir():
            return "export of stage 1"
        return "stage 1" if (self.run / "metrics.jsonl").is_file() else "loading and first step"

    def export(self) -> None:
        """From the checkpoint, which has the adapters, and the base."""
        shutil.rmtree(self.run / "hf")
        self.covt("export", "export", str(self.run), "--out", str(self.exported))
        make_eager(self.exported, LatentConfig.read(self.exported).start_id)

    def serve(self) -> None:
        """The server, and an evaluation of two rows through it."""
        state = ["start"]
        watch = MemoryWatch(lambda: state[0])
        command = [COVT, "serve", str(self.exported), "--dtype", "bfloat16", "--max-model-len", "512", "--threads", "2"]
        with (self.folder / "serve.log").open("wb") as log:
            server = subprocess.Popen(
                [*command, "--json"], stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=first_to_die
            )
        watch.start()
        try:
            assert server.stdout is not None
            found = next((match[0] for line in server.stdout if (match := re.search(r'http://[^",\s]+', line))), "")
            assert found, (self.folder / "serve.log").read_text()[-3000:]
            state[0] = "evaluate"
            rows = [
                "--split",
                "train",
                "--rows",
                "2",
                "--max-tokens",
                "16",
                "--out",
                str(self.folder / "eval"),
                "--base-url",
                found,
            ]
            subprocess.run([COVT, "eval", str(self.exported), str(self.data), *rows], check=True, stdout=sys.stderr)
        finally:
            server.terminate()
            server.wait()
            watch.stop()
        self.record("serve", watch.phases)

    def rl(self) -> None:
        """One GRPO step with the rewards format, accuracy and necessity."""
        self.covt("rl", *self.rl_arguments(), phase=self.rl_phase)
        lines = [json.loads(line) for line in (self.rl_run / "metrics.jsonl").read_text().splitlines()]
        assert any("latent/logprob_gap" in line for line in lines), lines

    def rl_phase(self) -> str:
        return "export" if (self.rl_run / "checkpoints" / "step_1").is_dir() else "step"


def measure(folder: Path, size: str, depth: float, skip: Sequence[str]) -> dict[str, Any]:
    """All phases, with the plans of the trainings."""
    rehearsal = Rehearsal(folder, size, depth)
    result: dict[str, Any] = {"size": size, "depth": depth, "device": harness.device(), "phases": rehearsal.phases}
    result["plan sft"] = rehearsal.plan(rehearsal.sft_arguments())
    for name in ("sft", "export", "serve", "rl"):
        if name in skip:
            continue
        if name == "rl":
            result["plan rl"] = rehearsal.plan(rehearsal.rl_arguments())
        getattr(rehearsal, name)()
    result["peak_gib"] = max(phase["total_gib"] for phase in rehearsal.phases)
    result["versions"] = harness.versions()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="3b")
    parser.add_argument("--depth-fraction", type=float, default=1.0, help="one in so many layers is kept")
    parser.add_argument("--skip", action="append", default=[], choices=("sft", "export", "serve", "rl"))
    parser.add_argument("--folder", type=Path, help="where to write, on a disk with room for three copies of the model")
    parser.add_argument("--keep", action="store_true", help="leave what was written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="real-size-", dir=arguments.folder))
    try:
        result = measure(folder, arguments.size, 1 / arguments.depth_fraction, arguments.skip)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def table(result: dict[str, Any]) -> str:
    """Seconds and memory by phase, for people."""
    lines = [f"{result['size']}, {result['depth']:g} of the layers, on {result['device']}", ""]
    for phase in result["phases"]:
        sizes = ", ".join(f"{key.removesuffix(' gib')} {value}" for key, value in phase.items() if key.endswith(" gib"))
        lines.append(f"{phase['phase']}: {phase['seconds']} s, {phase['total_gib']} GiB ({sizes})")
    return "\n".join([*lines, "", f"peak: {result['peak_gib']} GiB"])


if __name__ == "__main__":
    main()
