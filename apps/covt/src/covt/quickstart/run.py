"""`covt quickstart`: data → three trainings → GRPO → export → evaluation → report, each phase resumable."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covt.exporting import export_checkpoint
from covt.quickstart.judging import judge
from covt.quickstart.machine import Machine
from covt.quickstart.state import State
from covt.quickstart.summary import ABLATIONS, MODELS, summarize, trigger_rates
from covt.quickstart.tasks import Task
from covt.recipe_files import apply_overrides, read_recipe, validate
from covt_data.store.prepared_set import PreparedSet
from covt_eval.evaluation.report_samples import COUNT, write_samples
from covt_runtime.files import exclusive_lock
from covt_runtime.metrics.progress import Progress

METHODS = ("plain", "pause", "latent")
GENERATED = "generated"
"""Split of a second set of test rows; its evaluations are in a folder of this name below `eval`."""
RANKS = 2
# An offline log of each training would cost seconds that nobody reads.
WANDB = "online" if os.environ.get("WANDB_API_KEY") else "disabled"


@dataclass
class Quickstart:
    """One quickstart: its folder, its task, and what is done."""

    task: Task
    out: Path
    seed: int
    state: State
    progress: Progress
    stack: ExitStack = field(default_factory=ExitStack)
    machine: Machine | None = None

    def run(self) -> dict[str, Any]:
        """All phases that aren't done yet; returns `summary.json`'s content."""
        with self.stack:
            self.stack.enter_context(exclusive_lock(self.out))
            for name, phase in self.phases():
                if name in self.state.done:
                    self.progress.note(f"{name}: done before")
                    continue
                started = time.monotonic()
                result = phase()
                self.state.finish(name, result, time.monotonic() - started)
        return self.state.result("report")["summary"]

    def phases(self) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Name and function of every phase, in order."""
        trainings = [(method, lambda method=method: self.train(method)) for method in METHODS]
        return [
            ("data", self.data),
            ("model", self.model),
            *trainings,
            ("rl", self.rl),
            ("sft_more", self.sft_more),
            ("export", self.export),
            ("evaluate", self.evaluate),
            ("report", self.report),
        ]

    def running(self) -> Machine:
        """Workers and server, started at the first need."""
        if self.machine is None:
            self.machine = self.stack.enter_context(Machine(self.out, self.out / "model", RANKS, self.progress))
        return self.machine

    def data(self) -> dict[str, Any]:
        from covt_data.ingest.prepare import prepare

        with self.progress.phase("prepare data", unit="row") as phase:
            manifest = prepare(
                self.task.source,
                self.out / "data",
                options=self.task.data_options | {"seed": self.seed},
                overwrite=True,
                progress=phase.part,
            )
        test = list(PreparedSet(self.out / "data").rows("test"))
        write_samples(test[:: max(1, len(test) // COUNT)], self.out)
        return {split: count.rows for split, count in manifest.counts.items()}

    def model(self) -> dict[str, Any]:
        from covt_sft.training.train import build_tiny_checkpoint

        build_tiny_checkpoint(self.sft_config("latent", {}), self.out / "data", self.out / "model")
        self.running()
        return {"path": str(self.out / "model")}

    def sft_config(self, method: str, changes: dict[str, Any]) -> Any:
        """The task's SFT recipe with this quickstart's places."""
        from covt_sft.sft_recipe import SftConfig

        tables, origin = read_recipe("sft", self.task.sft)
        settings = {
            "method": method,
            "run.seed": self.seed,
            "run.out": str(self.out / "sft"),
            "run.name": method,
            "run.ranks": RANKS,
            "log.wandb": WANDB,
            "data.path": str(self.out / "data"),
            "model.path": str(self.out / "model") if (self.out / "model").is_dir() else "tiny",
            "model.tiny.family": self.task.family,
        }
        return validate(SftConfig, _set(tables, settings | changes), origin)

    def train(self, method: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """Both stages; changes: further settings of the recipe."""
        from covt_sft.training.train import plan, train

        config = self.sft_config(method, changes or {})
        return train(config, plan(config), progress=self.progress, workers=self.running().workers, overwrite=True)

    def rl(self, name: str = "rl", changes: dict[str, Any] | None = None) -> dict[str, Any]:
        """GRPO from the latent model; changes: further settings of the recipe."""
        from covt_rl.rl_recipe import RlConfig
        from covt_rl.training.train import plan, train

        tables, origin = read_recipe("rl", self.task.rl)
        machine = self.running()
        settings = {
            "run.seed": self.seed,
            "run.out": str(self.out),
            "run.name": name,
            "run.ranks": RANKS,
            "log.wandb": WANDB,
            "data.path": str(self.out / "data"),
            "model.path": self.state.result("latent")["hf"],
            "rollout.base_url": machine.server_url(),
        }
        config = validate(RlConfig, _set(tables, settings | (changes or {})), origin)
        return train(config, plan(config), progress=self.progress, workers=machine.workers, overwrite=True)

    def sft_more(self) -> dict[str, Any]:
        """Stage 2 continued from where RL started, for as many seconds as RL took."""
        from covt_sft.training.train import plan, train

        changes = {
            "run.out": str(self.out),
            "run.name": "sft_more",
            "model.path": self.state.result("latent")["hf"],
            "stage1.steps": 0,
            "stage2.steps": 1_000_000,
            "stage2.seconds": self.state.result("rl")["seconds"],
            "stage2.schedule": "constant",
        }
        config = self.sft_config("latent", changes)
        return train(config, plan(config), progress=self.progress, workers=self.running().workers, overwrite=True)

    def export(self) -> dict[str, Any]:
        _, checkpoint, folder = export_checkpoint(self.out / "rl", self.out / "exported")
        return {"checkpoint": str(checkpoint), "model": str(folder)}

    def evaluate(self) -> dict[str, Any]:
        folders = {
            "plain": self.state.result("plain")["hf"],
            "pause": self.state.result("pause")["hf"],
            "stage1": str(self.out / "sft" / "latent" / "stage1" / "hf"),
            "stage2": self.state.result("latent")["hf"],
            "sft_more": self.state.result("sft_more")["hf"],
            "rl": self.state.result("export")["model"],
        }
        accuracies: dict[str, Any] = {}
        for split, place in self.test_splits().items():
            rows = list(PreparedSet(self.out / "data").rows(split))
            accuracies[split] = {
                label: self.judge(label, folders[label], rows, ABLATIONS if label == "rl" else ("keep",), place)
                for label in MODELS
            }
        return accuracies

    def test_splits(self) -> dict[str, Path]:
        """The splits that models are judged on, and the folder of each one's evaluations."""
        folder = self.out / "eval"
        found = {"test": folder}
        if GENERATED in PreparedSet(self.out / "data").splits:
            found[GENERATED] = folder / GENERATED
        return found

    def judge(self, label: str, folder: str, rows: Sequence[Any], modes: Sequence[str], out: Path) -> dict[str, float]:
        """Accuracy of one model folder by mode; `out` gets the rows."""
        return judge(
            self.running().server_url(),
            self.out / "model",
            Path(folder),
            rows,
            modes,
            label=label,
            out=out,
            max_tokens=self.task.max_tokens,
            seed=self.seed,
            progress=self.progress,
        )

    def report(self) -> dict[str, Any]:
        import json

        from covt_eval.report import write_report

        seconds = {name: done["seconds"] for name, done in self.state.done.items()}
        seconds["total"] = round(sum(seconds.values()), 2)
        summary = self.summarize("test", seconds)
        extra = {"task": self.task.name, "settings": self.state.settings}
        if GENERATED in self.test_splits():
            extra[GENERATED] = self.summarize(GENERATED)
        (self.out / "summary.json").write_text(json.dumps(summary | extra, indent=2), encoding="utf-8")
        if self.task.decodes_latents:
            from covt_eval.interpretation.decoded_sets import write_decoded

            with self.progress.phase("decode latents"):
                write_decoded(self.out, Path(self.state.result("export")["model"]), self.out / "data")
        page = write_report(self.out, self.out / "report.html")
        return {"summary": summary | extra, "report": str(page)}

    def summarize(self, split: str, seconds: dict[str, float] | None = None) -> dict[str, Any]:
        """The figures of one split, with the share of answers that have a latent span."""
        rows, folder = list(PreparedSet(self.out / "data").rows(split)), self.test_splits()[split]
        found = summarize(folder, self.seed, self.task.baseline(rows), seconds)
        return found | {"trigger_rate": trigger_rates(folder)}


def _set(tables: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    return apply_overrides(tables, [f"{key}={_toml(value)}" for key, value in settings.items()])


def _toml(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
