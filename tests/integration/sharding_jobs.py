"""Jobs of the tests about loading a model into shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def compare(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """Load into shards and compare each with the file, and what the engine computes with an unsharded model."""
    from covt_model.checkpoints.hf_folder import checkpoint_name
    from covt_model.checkpoints.latent_checkpoint import load_model
    from covt_model.checkpoints.split_load import load_split
    from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
    from covt_runtime.engine.weights import DTYPES
    from covt_runtime.engine.zero_engine import ZeroEngine
    from covt_runtime.engine.zero_sharding import ZeroSharding

    zero = ZeroConfig(**payload["zero"])
    dtype = DTYPES[zero.dtype]
    sharding = ZeroSharding(zero, maps=payload["maps"])
    model, visual = load_split(payload["checkpoint"], dtype, sharding=sharding)
    mapped = {name for name, parameter in model.named_parameters() if is_mapped(parameter.ds_tensor)}
    tower = all(is_mapped(parameter) for parameter in visual.parameters())
    held = max(parameter.numel() for parameter in model.parameters())
    file = load_file(f"{payload['checkpoint']}/model.safetensors")
    wrong = []
    for name, parameter in model.named_parameters():
        flat = file[checkpoint_name(name)].to(dtype).reshape(-1)
        size = -(-flat.numel() // worker.world_size)
        padded = torch.cat([flat, flat.new_zeros(size * worker.world_size - flat.numel())])
        if not torch.equal(parameter.ds_tensor.data.cpu(), padded[worker.rank * size :][:size]):
            wrong.append(name)
    whole = load_model(payload["checkpoint"], dtype=dtype)
    wrong += [
        name
        for name, tensor in visual.named_parameters()
        if not torch.equal(tensor, dict(whole.model.visual.named_parameters())[name])
    ]
    rotary, expected = model.model.language_model.rotary_emb.inv_freq, whole.model.language_model.rotary_emb.inv_freq
    ids = torch.arange(12)[None] + 20
    engine = ZeroEngine(model, OptimConfig(), zero, total_steps=1)
    with engine.forwards(), torch.no_grad():
        logits = engine(input_ids=ids).logits
    with torch.no_grad():
        difference = (logits - whole(input_ids=ids).logits).abs().max().item()
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    engine.close()
    return {
        "mapped": len(mapped) / len(list(model.parameters())),
        "tower": tower,
        "wrong": wrong,
        "held": held,
        "rotary": torch.equal(rotary, expected),
        "difference": difference,
        "tied": tied,
        "stops": model.generation_config.eos_token_id == whole.generation_config.eos_token_id,
    }


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in the pages of a checkpoint's file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(number, 16) for number in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return line.endswith(".safetensors")
    return False


def load(payload: dict[str, Any], worker: Any) -> None:
    """Load into shards; what is wrong with the checkpoint is raised on every rank."""
    from covt_model.checkpoints.split_load import load_split
    from covt_runtime.engine.optimizer_settings import ZeroConfig
    from covt_runtime.engine.zero_sharding import ZeroSharding

    load_split(payload["checkpoint"], torch.float32, sharding=ZeroSharding(ZeroConfig(dtype="fp32")))
