"""Learning-rate schedules as plain functions of the step."""

from __future__ import annotations

import math

from covt_runtime.engine.optimizer_settings import OptimConfig


def lr_at(step: int, total_steps: int, optim: OptimConfig) -> float:
    """The learning rate of one optimizer step.

    Warm-up is linear and reaches `optim.lr` at step `warmup_steps` - 1. Then `linear` and `cosine` fall to
    `min_lr_ratio` · lr at `total_steps`, and `wsd` falls only over the last `decay_share` of the steps.

    Args:
        step: number of the step, counted from 0; steps past the end have the last value.
        total_steps: length of the schedule.
        optim: peak, shape and warm-up of the schedule.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    start = optim.warmup_steps
    if optim.schedule == "wsd":
        start = max(start, round(total_steps * (1.0 - optim.decay_share)))
    done = min(1.0, max(0, step - start) / max(1, total_steps - start))
    height = 0.5 * (1.0 + math.cos(math.pi * done)) if optim.schedule == "cosine" else 1.0 - done
    return optim.lr * (optim.min_lr_ratio + (1.0 - optim.min_lr_ratio) * height)
