"""Small supervised trainings that several test files start, and jobs that run inside their workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from covt_data.ingest.prepare import prepare
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress
from covt_sft.planning.plan import plan
from covt_sft.sft_recipe import SftConfig
from covt_sft.training.train import build_tiny_checkpoint, train

STAGE1, STAGE2 = 6, 4


def make_place(place: Path, **latent: Any) -> Path:
    """Data and a starting checkpoint below `place`."""
    prepare("trace", place / "data", options={"n_train": 48, "n_prompts": 8, "n_test": 12, "direct_hops": 3})
    build_tiny_checkpoint(settings(place, "start", latent=latent), place / "data", place / "model")
    return place


def settings(place: Path, name: str, *, method: str = "latent", **sections: dict[str, Any]) -> SftConfig:
    values: dict[str, dict[str, Any]] = {
        "run": {"out": str(place / "runs"), "name": name},
        "model": {"path": str(place / "model") if (place / "model").exists() else "tiny"},
        "latent": {"normalize": "rms", "selection": "focus", "required": False},
        "data": {"path": str(place / "data"), "batch_size": 8, "micro_batch": 4},
        "zero": {"dtype": "fp32", "gather": "step", "persistence_threshold": 0},
        "stage1": {"steps": STAGE1, "lr": 1e-3, "noise_target": 0.0, "warmup_steps": 1},
        "stage2": {"steps": STAGE2, "lr": 1e-3, "warmup_steps": 1},
        "eval": {"rows": 8, "max_tokens": 16},
        "log": {"wandb": "disabled", "every": 1, "save_every": 2, "keep": 10},
    }
    for section, changes in sections.items():
        values[section] = values.get(section, {}) | changes
    return SftConfig.model_validate(values | {"method": method})


class Notes(Progress):
    """Keeps the workers' notes; kills rank 1 after the step in `kill`, if there is one."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []
        self.kill: tuple[int, WorkerGroup] | None = None
        self.steps = 0

    def handle(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "note":
            self.texts.append(event["text"])
        if event["event"] == "advance":
            self.steps += 1
            if self.kill is not None and self.kill[0] == self.steps:
                os.kill(self.kill[1]._workers[1].process.pid, signal.SIGKILL)
        super().handle(event)


def run(config: SftConfig, workers: WorkerGroup, *, progress: Progress | None = None, **options: Any) -> Path:
    result = train(config, plan(config), progress=progress or Progress(quiet=True), workers=workers, **options)
    return Path(result["run"])


def logged(run: Path, name: str) -> list[Any]:
    """A metric's values in the order they were logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def losses(run: Path) -> list[float]:
    return logged(run, "loss")


def follow_teacher(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Train stage-1 steps with a moving teacher; return its distance from the closed form and a rank's peak."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    from covt_sft.losses.stage_loss import StageLoss
    from covt_sft.sft_job import SftJob
    from covt_sft.training.loop import Trainer

    job = SftJob.model_validate(payload)
    trainer = Trainer(job, worker)
    engine, targets = trainer.engine, trainer.targets
    teacher = targets.teacher
    assert teacher is not None
    parameters: list[Any] = list(engine.module.parameters())
    whole = sum(p.ds_numel for p in parameters)
    most = 0

    def measure(*_: Any) -> None:
        nonlocal most
        held = sum(p.ds_numel for p in parameters if p.ds_status == ZeroParamStatus.AVAILABLE)
        most = max(most, held)

    compute = targets._targets

    def measured(batch: Any) -> torch.Tensor:
        parts = list(engine.module.modules())
        hooks = [part.register_forward_pre_hook(measure) for part in parts]
        hooks += [part.register_forward_hook(measure) for part in parts]
        try:
            return compute(batch)
        finally:
            for hook in hooks:
                hook.remove()

    targets._targets = measured
    decay, steps = teacher.decay, job.stage1_steps
    students = [{name: shard.double() for name, shard in engine.trainable_shards().items()}]
    loss = StageLoss(trainer.config.stage1, "latent", engine, trainer.features, targets)
    for number in range(steps):
        trainer.stepper.step(loss, trainer.deal_rows(number))
        students.append({name: shard.double() for name, shard in engine.trainable_shards().items()})
    error, moved = 0.0, 0.0
    for name, average in teacher.average.items():
        closed = decay**steps * students[0][name]
        closed += sum((1 - decay) * decay ** (steps - t) * students[t][name] for t in range(1, steps + 1))
        error = max(error, float((average - closed).abs().max()))
        moved = max(moved, float((average - students[0][name]).abs().max()))
    kept = sum(average.numel() for average in teacher.average.values())
    worst = [float(engine.global_max(float(value))) for value in (most, kept)]
    engine.close()
    return {
        "error": error,
        "moved": moved,
        "dtype": str(parameters[0].dtype),
        "gathered": worst[0] / whole,
        "kept": worst[1] / whole,
    }
