"""Writing a stock Hugging Face folder: trained weights under the source checkpoint's names, everything else copied."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from covt_model.card import model_card
from covt_model.config import LatentConfig, read_config
from covt_model.errors import CheckpointError, ModelError

SHARD_BYTES = 4_000_000_000
# Files that describe weights we replace, or that belong to another run of ours.
NOT_COPIED = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)$|.*\.index\.json$|README\.md$")
_LANGUAGE = re.compile(r"(?:^|\.)model\.language_model\.(.+)$")
_VISUAL = re.compile(r"(?:^|\.)(?:model\.)?visual\.(.+)$")


def checkpoint_name(name: str) -> str:
    """A parameter's name in a published checkpoint, whatever wraps the model.

    `policy.model.model.language_model.norm.weight` → `model.norm.weight`, `model.visual.x` → `visual.x`; published
    names stay as they are.
    """
    if match := _LANGUAGE.search(name):
        return f"model.{match[1]}"
    if match := _VISUAL.search(name):
        return f"visual.{match[1]}"
    if name.endswith("lm_head.weight"):
        return "lm_head.weight"
    return name


class SourceWeights:
    """The tensors of a checkpoint folder by published name, read one at a time."""

    def __init__(self, checkpoint: Path | str) -> None:
        folder = Path(checkpoint)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} has no safetensors files", "give the folder of a Hugging Face model")
        self._where: dict[str, tuple[Path, str]] = {}
        for file in files:
            with safe_open(file, "pt") as opened:
                self._where |= {checkpoint_name(key): (file, key) for key in opened.keys()}  # noqa: SIM118

    def names(self) -> list[str]:
        return list(self._where)

    def read(self, name: str) -> torch.Tensor:
        file, key = self._where[name]
        with safe_open(file, "pt") as opened:
            return opened.get_tensor(key)


def write_checkpoint(
    named: Iterable[tuple[str, torch.Tensor | None]],
    source: Path | str,
    out: Path | str,
    latent: LatentConfig,
    *,
    is_main: bool = True,
    shard_bytes: int = SHARD_BYTES,
    title: str | None = None,
) -> Path:
    """Write `out` as a complete checkpoint that stock Transformers and vLLM load; all ranks call it.

    named: the trained parameters, tensors on the main rank and None elsewhere; each is cast to the source's dtype.
    What `named` leaves out of the vision tower, and a tied head, comes from `source`; any other omission is an error,
    as is a name or shape the source doesn't have. The folder appears under its name only when it is complete.
    """
    out = Path(out)
    if not is_main:
        for _ in named:
            pass
        return out
    weights = SourceWeights(source)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_shards(_merged(named, weights, read_config(source)), partial, shard_bytes)
        for file in Path(source).iterdir():
            if file.is_file() and not NOT_COPIED.match(file.name):
                shutil.copyfile(file, partial / file.name)
        latent.write(partial)
        (partial / "README.md").write_text(model_card(title or out.parent.name, latent))
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _merged(
    named: Iterable[tuple[str, torch.Tensor | None]], weights: SourceWeights, config: dict
) -> Iterator[tuple[str, torch.Tensor]]:
    left = dict.fromkeys(weights.names())
    for given, tensor in named:
        name = checkpoint_name(given)
        if tensor is None or (name not in left and name == "lm_head.weight"):
            continue  # a tied head is stored once, as the embedding
        if name not in left:
            raise ModelError(f"parameter {given} ({name}) is not in the source checkpoint", "export onto its own base")
        old = weights.read(name)
        if old.shape != tensor.shape:
            raise ModelError(
                f"{name} is {tuple(tensor.shape)} and {tuple(old.shape)} in the source", "export onto its own base"
            )
        del left[name]
        yield name, tensor.detach().to("cpu", old.dtype)
    tied = config.get("tie_word_embeddings") or (config.get("text_config") or {}).get("tie_word_embeddings")
    forgotten = [n for n in left if not n.startswith("visual.") and not (n == "lm_head.weight" and tied)]
    if forgotten:
        raise ModelError(f"{len(forgotten)} parameters were not given, {forgotten[0]} among them", "pass all of them")
    for name in left:
        if name.startswith("visual."):
            yield name, weights.read(name)


def write_shards(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `model.safetensors`, or numbered shards with their index when there is more than `shard_bytes`."""
    files: list[tuple[Path, list[str]]] = []
    held: dict[str, torch.Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal held, size
        path = folder / f"shard-{len(files)}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in held.items()}, path, metadata={"format": "pt"})
        path.chmod(0o644)
        files.append((path, list(held)))
        held, size = {}, 0

    for name, tensor in tensors:
        count = tensor.numel() * tensor.element_size()
        if held and size + count > shard_bytes:
            flush()
        held[name] = tensor
        size, total = size + count, total + count
    flush()
    if len(files) == 1:
        files[0][0].rename(folder / "model.safetensors")
        return
    index: dict[str, str] = {}
    for number, (path, names) in enumerate(files, start=1):
        final = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        path.rename(folder / final)
        index |= dict.fromkeys(names, final)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2) + "\n"
    )
