"""A supervised training in which the gradient of chosen steps is not finite on one rank, while their loss is."""

from __future__ import annotations

import os
from typing import Any

import torch
from zero_jobs import JOBS

from covt_sft.sft_job import SftJob
from covt_sft.training.loop import Trainer

SPOILED = "COVT_TEST_SPOILED"


def environment(steps: str) -> dict[str, str]:
    """Environment of workers that spoil these steps, counted from 0 and separated by spaces; `all` spoils every one."""
    return JOBS | {SPOILED: steps}


def train_spoiled(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """In place of `covt_sft.training.loop.train_worker`."""
    trainer = Trainer(SftJob.model_validate(payload), worker)
    engine, chosen = trainer.engine, os.environ[SPOILED].split()
    backward = engine.backward

    def spoil(loss: torch.Tensor) -> None:
        if worker.rank == 1 and (chosen == ["all"] or str(engine.global_step) in chosen):
            loss.register_hook(lambda gradient: gradient * float("inf"))
        backward(loss)

    engine.backward = spoil
    try:
        return trainer.run()
    finally:
        engine.close()
