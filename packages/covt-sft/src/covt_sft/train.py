"""Run one supervised training: prepare the run folder and the starting checkpoint, then hand over to the workers."""

import time
from pathlib import Path
from typing import Any

from covt_data.store import PreparedSet
from covt_runtime.distributed import launched_from_outside, place_in_group
from covt_runtime.launch import WorkerGroup, launch
from covt_runtime.progress import Progress
from covt_runtime.run import RunFolder
from covt_sft.config import SftConfig
from covt_sft.errors import SftError
from covt_sft.plan import TINY, SftPlan, plan

__all__ = ["build_tiny_start", "plan", "train"]

TARGET = "covt_sft.worker:train_worker"
TINY_SAMPLES = 200
"""Rows whose text trains the tiny tokenizer and whose pictures center the tiny vision tower."""


def build_tiny_start(config: SftConfig, data: Path, out: Path) -> Path:
    """A tiny Qwen2.5-VL from scratch for this data: its words in the tokenizer, its pictures in the vision scale."""
    from covt_model.images import decode
    from covt_model.tiny import build_tiny, distinct_cells

    rows = list(PreparedSet(data).rows(config.data.split, TINY_SAMPLES))
    texts = [text for row in rows for text in (row.question, row.answer, *(step.text or "" for step in row.steps))]
    images = [image for row in rows for image in (*row.images, *(i for step in row.steps for i in step.images or ()))]
    tiny = config.model.tiny
    return build_tiny(
        out,
        texts,
        distinct_cells([decode(image.bytes) for image in images]),
        hidden=tiny.hidden,
        layers=tiny.layers,
        heads=tiny.heads,
        intermediate=tiny.intermediate,
        init_std=tiny.init_std,
        vision_depth=tiny.vision_depth,
        vision_hidden=tiny.vision_hidden,
        latent_size=config.latent.size,
        normalize=config.latent.normalize,
        vocab_size=tiny.vocab_size,
        seed=config.run.seed,
    )


def train(
    config: SftConfig,
    planned: SftPlan,
    *,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Train and return `{"run", "hf", "steps", "seconds"}`, empty on ranks other than 0 of another launcher.

    `overwrite` replaces a run of the same name. `workers` are running worker processes to use; without them, this
    starts and ends its own.
    """
    outside = launched_from_outside()
    if outside and not config.run.name:
        raise SftError("processes started from outside can't agree on a run name", "set run.name")
    name = config.run.name or f"sft-{config.method}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path(config.run.out) / name
    model = str(folder / "init") if planned.model == TINY else planned.model
    stored = config.model_dump(mode="json") | {"resolved": {"model": model, "data": str(planned.data)}}
    is_main = not outside or place_in_group()[0] == 0
    # Rank 0 joins the others only when what they need is there.
    run = RunFolder(folder)
    if is_main:
        run = RunFolder.create(config.run.out, name, stored, resume=resume, overwrite=overwrite)
    if is_main and planned.model == TINY and not Path(model).is_dir():
        progress.note(f"building a tiny Qwen2.5-VL in {model}")
        build_tiny_start(config, planned.data, Path(model))
    payload = {
        "config": config.model_dump(mode="json"),
        "run": str(run.path),
        "data": str(planned.data),
        "model": model,
        "steps": [planned.stage1_steps, planned.stage2_steps],
        "resume": resume,
    }
    if workers is not None:
        return workers.run(TARGET, payload, progress.handle)
    return launch(TARGET, payload, ranks=config.run.ranks, log_dir=run.logs, on_event=progress.handle) or {}
