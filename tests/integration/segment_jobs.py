"""Steps over rows of one latent segment beside rows of many: how many segments each forward computes."""

from __future__ import annotations

import json
from typing import Any

import torch.distributed as dist

from covt_data.schema import Row
from covt_model.latents import latent_forward as module
from covt_sft.losses.stage_loss import StageLoss
from covt_sft.sft_job import SftJob
from covt_sft.training.loop import Trainer

MANY = 20


def with_segments(row: Row, number: int) -> Row:
    """The row with its first latent step, and a word of text after it, `number` times."""
    latent = next(step for step in row.steps if step.type == "latent")
    text = next(step for step in row.steps if step.type == "text")
    metadata = row.meta | {"focus": row.meta["focus"][:1] * number}
    steps = [latent, text.model_copy(update={"text": "so"})] * number
    return row.model_copy(update={"steps": steps, "metadata": json.dumps(metadata)})


def segments_computed(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """One step of stage 2 over rows with `payload["segments"]` segments each, one row per forward.

    Returns for each rank the segments of its forwards in order, and the step's loss.
    """
    trainer = Trainer(SftJob.model_validate(payload["job"]), worker)
    some = next(row for row in trainer.stream.rows if any(step.type == "latent" for step in row.steps))
    rows = [with_segments(some, number) for number in payload["segments"]]
    trainer.data.rows = rows
    seen: list[int] = []
    plan = module.plan

    def recorded(lengths: Any, spans: Any, size: int, segments: int, **options: Any) -> Any:
        seen.append(segments)
        return plan(lengths, spans, size, segments, **options)

    module.plan = recorded
    try:
        loss = StageLoss(trainer.config.stage2, "latent", trainer.engine, trainer.features, trainer.targets)
        loader = trainer.load_steps(trainer.data, lambda _: range(len(rows)), threads=0)
        _, metrics = trainer.stepper.step(loss, loader.deal(0))
    finally:
        module.plan = plan
        trainer.engine.close()
    found: list[list[int]] = [[] for _ in range(worker.world_size)]
    dist.all_gather_object(found, seen)
    return {"segments": found, "loss": metrics["loss"]}
