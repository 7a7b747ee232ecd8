"""Checkpoints of the published shapes with random weights, written one tensor at a time.

Sizes, names, tokenizer and image settings are those of the published models; the values are not, so nothing that such a
model says means anything.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "tests" / "unit" / "model" / "published"
TOKENIZER = ROOT.parent / "shared" / "data" / "qwen25vl_tokenizer"
SIZES = ("3b", "7b")
SHARD_BYTES = 4_000_000_000


def real_config(size: str, depth: float = 1.0) -> dict[str, Any]:
    """The published config of a size.

    Args:
        size: `3b` or `7b`.
        depth: the share of the layers, of the language model and of the vision tower, that are kept.
    """
    config = json.loads((CONFIGS / f"qwen2.5-vl-{size}.json").read_text())
    vision = config["vision_config"]
    config["num_hidden_layers"] = max(1, round(depth * config["num_hidden_layers"]))
    vision["depth"] = max(1, round(depth * vision["depth"]))
    vision["fullatt_block_indexes"] = [block for block in vision["fullatt_block_indexes"] if block < vision["depth"]]
    return config


def write_random(out: Path, size: str, depth: float = 1.0, *, max_pixels: int = 16 * 28 * 28) -> Path:
    """Write a checkpoint in bf16 with weights drawn as they are before training; an existing folder is kept.

    Args:
        out: the folder.
        size: `3b` or `7b`.
        depth: the share of the layers.
        max_pixels: the processor's limit; the default makes 16 visual tokens of an image.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from covt_model.checkpoints.hf_folder import checkpoint_name
    from covt_model.checkpoints.shard_writer import ShardWriter

    if (out / "config.json").is_file():
        return out
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in TOKENIZER.iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copyfile(file, partial / file.name)
    (partial / "config.json").write_text(json.dumps(real_config(size, depth), indent=2) + "\n")
    settings = json.loads((partial / "preprocessor_config.json").read_text())
    settings |= {"min_pixels": 28 * 28, "max_pixels": max_pixels}
    (partial / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(partial))
    shapes = {checkpoint_name(name): tensor.shape for name, tensor in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    with ShardWriter(partial, shapes, SHARD_BYTES) as writer:
        for name, shape in shapes.items():
            tensor = torch.empty(shape, dtype=torch.bfloat16)
            if name.endswith("bias"):
                tensor.zero_()
            elif len(shape) == 1:
                tensor.fill_(1)
            else:
                tensor.normal_(0, 0.02, generator=generator)
            writer.add(name, tensor, torch.bfloat16)
    partial.rename(out)
    return out


def make_eager(folder: Path, token: int, factor: float = 12.0) -> None:
    """Make a token's output row so long that a model with random weights samples it often; in place."""
    import torch

    from covt_model.checkpoints.hf_folder import file_tensors

    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in file_tensors(file).items()}
    matrix = stored.get("lm_head.weight", stored["model.embed_tokens.weight"])
    width = matrix.shape[1]
    row = matrix.read(token * width, (token + 1) * width) * factor
    with matrix.file.open("r+b") as file:
        file.seek(matrix.offset + token * width * matrix.dtype.itemsize)
        file.write(row.view(torch.uint8).numpy().data)
