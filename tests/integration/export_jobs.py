"""Jobs of the export tests: a little training on ZeRO-3 ranks, saved by us and by DeepSpeed itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def train_and_save_twice(payload: dict[str, Any], worker: Any) -> None:
    """Two steps of the language model on random ids; a checkpoint of ours, and DeepSpeed's own."""
    from covt_model.checkpoints.split_load import load_split
    from covt_runtime.checkpoints.checkpoint import CheckpointStore
    from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
    from covt_runtime.engine.zero_engine import ZeroEngine

    zero = ZeroConfig.model_validate({"dtype": payload["dtype"], "gather": "step", "persistence_threshold": 0})
    model, _ = load_split(payload["model"], torch.float32)
    engine = ZeroEngine(model, OptimConfig.model_validate({"lr": 1e-2, "warmup_steps": 0}), zero, total_steps=2)
    generator = torch.Generator().manual_seed(worker.rank)
    for _ in range(2):
        ids = torch.randint(0, 200, (2, 9), generator=generator)
        logits = engine(input_ids=ids).logits.float()
        engine.backward(logits.logsumexp(-1).mean() / engine.world_size)
        engine.step()
    CheckpointStore(Path(payload["ours"])).save(2, engine)
    engine._engine.save_checkpoint(payload["deepspeed"], tag="step_2")
    engine.close()
