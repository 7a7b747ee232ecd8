"""Writing a stock Hugging Face folder: trained weights under the source checkpoint's names, everything else copied."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from covt_model import generation
from covt_model.checkpoints.computed_tensors import RowsReplaced
from covt_model.checkpoints.latent_rows import read_rows
from covt_model.checkpoints.model_card import Facts, model_card
from covt_model.checkpoints.shard_writer import NAMES, SHARD_BYTES, ShardWriter, Stored
from covt_model.families import find_family
from covt_model.latent_config import LatentConfig, read_config
from covt_model.latents.heads import ATTRIBUTE, build_head, save_head
from covt_model.model_errors import CheckpointError, ModelError

MOST_HEADER = 100_000_000  # bytes, as the format has it
# By path: importing the module would import Transformers' generation, which takes seconds.
CUSTOM_GENERATE = Path(generation.__file__).with_name("custom_generate.py")
# Files that describe weights we replace, or that belong to another run of ours.
NOT_COPIED = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)$|.*\.index\.json$|README\.md$")
_LANGUAGE = re.compile(r"(?:^|\.)model\.language_model\.(.+)$")
_VISUAL = re.compile(r"(?:^|\.)(?:model\.)?visual\.(.+)$")


def checkpoint_name(name: str) -> str:
    """A parameter's name in this package, whatever wraps the model; `Family.stored_name` has its name in files.

    `policy.model.model.language_model.norm.weight` → `model.norm.weight`, `model.visual.x` → `visual.x`; such names
    stay as they are.
    """
    if match := _LANGUAGE.search(name):
        return f"model.{match[1]}"
    if match := _VISUAL.search(name):
        return f"visual.{match[1]}"
    if name.endswith("lm_head.weight"):
        return "lm_head.weight"
    return name


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a safetensors file, read in flat pieces. offset: of its first byte in the file."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self, start: int, stop: int) -> torch.Tensor:
        piece = torch.empty(stop - start, dtype=self.dtype)
        with self.file.open("rb", buffering=0) as opened:
            opened.seek(self.offset + start * self.dtype.itemsize)
            read = opened.readinto(piece.view(torch.uint8).numpy().data)
        if read != piece.nbytes:
            raise CheckpointError(f"{self.file} is cut off", "download or export it again")
        return piece

    def mapped(self, start: int, stop: int) -> torch.Tensor | None:
        """Elements start … stop−1 of the flattened tensor, in the file's own pages; None where they lie unaligned.

        They take memory that the system can take back, and that all processes share. What is written to them stays in
        this process.
        """
        width = self.dtype.itemsize
        if self.offset % width:
            return None
        return _map_file(self.file)[self.offset + start * width : self.offset + stop * width].view(self.dtype)


@lru_cache(maxsize=64)
def _map_file(file: Path) -> torch.Tensor:
    return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)


def file_tensors(file: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file by name, from its header; nothing of them is read.

    `safe_open` would map or copy whole tensors, which counts as this process's memory.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        try:
            header = json.loads(opened.read(size)) if 0 < size < MOST_HEADER else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file} is not a safetensors file", "download or export it again")
    entries = [entry for key, entry in header.items() if key != "__metadata__"]
    missing = 8 + size + max((entry["data_offsets"][1] for entry in entries), default=0) - file.stat().st_size
    if missing > 0:
        raise CheckpointError(f"{file} is cut off: {missing} bytes are missing", "download or export it again")
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    return {
        key: FileTensor(file, 8 + size + entry["data_offsets"][0], tuple(entry["shape"]), dtypes[entry["dtype"]])
        for key, entry in header.items()
        if key != "__metadata__"
    }


class SourceWeights:
    """The tensors of a checkpoint folder by `checkpoint_name`, read one at a time."""

    def __init__(self, checkpoint: Path | str) -> None:
        folder = Path(checkpoint)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} has no safetensors files", "give the folder of a Hugging Face model")
        self._tensors: dict[str, FileTensor | RowsReplaced] = {
            checkpoint_name(key): tensor for file in files for key, tensor in file_tensors(file).items()
        }
        ids, rows = read_rows(folder)
        self._tensors |= {name: RowsReplaced(self._tensors[name], rows[name], ids) for name in rows}

    def names(self) -> list[str]:
        return list(self._tensors)

    def stored(self, name: str) -> FileTensor | RowsReplaced:
        return self._tensors[name]

    def read(self, name: str) -> torch.Tensor:
        stored = self._tensors[name]
        return stored.read(0, math.prod(stored.shape)).view(stored.shape)


def write_checkpoint(
    named: Iterable[tuple[str, torch.Tensor | Stored | None]],
    source: Path | str,
    out: Path | str,
    latent: LatentConfig,
    *,
    is_main: bool = True,
    shard_bytes: int = SHARD_BYTES,
    dtype: torch.dtype | None = None,
    title: str | None = None,
    facts: Facts | None = None,
) -> Path:
    """Write `out` as a complete checkpoint that stock Transformers and vLLM load; all ranks call it.

    named: the trained parameters, tensors (or tensors that lie in files) on the main rank and None elsewhere. dtype: of
    all weights; by default each keeps the source's. What `named` leaves out of the vision tower, and a tied head,
    comes from `source`; any other omission is an error, as is a name or shape the source doesn't have. facts: what the
    model card says about data, recipe and results. The folder appears under its name only when it is complete.
    """
    out = Path(out)
    if not is_main:
        for _ in named:
            pass
        return out
    weights, config = SourceWeights(source), read_config(source)
    family = find_family(config, source)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        head: dict[str, torch.Tensor] = {}
        with ShardWriter(partial, map(family.stored_name, weights.names()), shard_bytes) as writer:
            for name, tensor in _merged(_without_head(named, head), weights, config):
                writer.add(family.stored_name(name), tensor, dtype or weights.stored(name).dtype)
        _write_companions(Path(source), partial, latent, dtype)
        if build_head(latent.head, 1) is not None:
            save_head(partial, head)
        (partial / "README.md").write_text(model_card(title or out.parent.name, latent, family, facts))
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _without_head(
    named: Iterable[tuple[str, torch.Tensor | Stored | None]], head: dict[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor | Stored | None]]:
    """Hand on all but the latent head's weights, which go to `head` under their own names."""
    for name, tensor in named:
        _, found, own = name.rpartition(f"{ATTRIBUTE}.")
        if not found:
            yield name, tensor
        elif isinstance(tensor, torch.Tensor):
            head[own] = tensor
        elif tensor is not None:
            head[own] = tensor.read(0, math.prod(tensor.shape)).view(tensor.shape)


def _write_companions(source: Path, folder: Path, latent: LatentConfig, dtype: torch.dtype | None) -> None:
    """Config, tokenizer, processor, templates and the decoding loop: all files but weights and card."""
    for file in source.iterdir():
        if file.is_file() and not NOT_COPIED.match(file.name):
            shutil.copyfile(file, folder / file.name)
    if dtype is not None:
        _set_dtype(folder / "config.json", str(dtype).removeprefix("torch."))
    latent.write(folder)
    (folder / "custom_generate").mkdir()
    shutil.copyfile(CUSTOM_GENERATE, folder / "custom_generate" / "generate.py")


def _set_dtype(path: Path, name: str) -> None:
    config = json.loads(path.read_text())
    for part in (config, config.get("text_config"), config.get("vision_config")):
        for key in ("dtype", "torch_dtype"):
            if part and key in part:
                part[key] = name
    if "torch_dtype" not in config:
        config["dtype"] = name
    path.write_text(json.dumps(config, indent=2) + "\n")


def _merged(
    named: Iterable[tuple[str, torch.Tensor | Stored | None]], weights: SourceWeights, config: dict
) -> Iterator[tuple[str, torch.Tensor | Stored]]:
    left = dict.fromkeys(weights.names())
    for given, tensor in named:
        name = checkpoint_name(given)
        if tensor is None or (name not in left and name == "lm_head.weight"):
            continue  # a tied head is stored once, as the embedding
        if name not in left:
            raise ModelError(f"parameter {given} ({name}) is not in the source checkpoint", "export onto its own base")
        expected = weights.stored(name).shape
        if expected != tuple(tensor.shape):
            raise ModelError(
                f"{name} is {tuple(tensor.shape)} and {expected} in the source", "export onto its own base"
            )
        del left[name]
        yield name, tensor
    tied = config.get("tie_word_embeddings") or (config.get("text_config") or {}).get("tie_word_embeddings")
    forgotten = [n for n in left if not n.startswith("visual.") and not (n == "lm_head.weight" and tied)]
    if forgotten:
        raise ModelError(f"{len(forgotten)} parameters were not given, {forgotten[0]} among them", "pass all of them")
    for name in left:
        if name.startswith("visual."):
            yield name, weights.stored(name)


def write_shards(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, names: Iterable[str]) -> None:
    """Write tensors in their own dtypes as `model.safetensors`, or as numbered shards with their index."""
    with ShardWriter(folder, names) as writer:
        for name, tensor in tensors:
            writer.add(name, tensor, tensor.dtype)


def link_weights(source: Path, folder: Path) -> None:
    """Link the safetensors files of `source` and their index into `folder`, hard where the file system allows it."""
    for file in (*source.glob("*.safetensors"), *source.glob("*.safetensors.index.json")):
        target = file.resolve()
        try:
            os.link(target, folder / file.name)
        except OSError:  # another file system, or one without hard links
            (folder / file.name).symlink_to(target)
