"""The files inside a checkpoint folder, and how a parameter is assembled from the ranks' shards.

state.json            format, step, number of ranks, every parameter's shape, schedule, the caller's `extra`
rank_R.safetensors    rank R's shards: weight/<name> (fp32 of trainable parameters, the model's dtype of frozen ones),
                      exp_avg/<name>, exp_avg_sq/<name>, adam_step/<group>, rng/<generator>, user/<caller's name>
rank_R.json           rank R's Python and numpy generators
manifest.json         size and SHA-256 of the files above
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from covt_runtime import files
from covt_runtime.runtime_errors import CheckpointError

FORMAT = 1
STATE = "state.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def read_state(folder: Path) -> dict[str, Any]:
    """The checkpoint's `state.json`."""
    path = folder / STATE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {STATE}", "give a folder like runs/NAME/checkpoints/step_100"
        )
    state = json.loads(path.read_text())
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {state.get('format')}, this version reads {FORMAT}",
            "read it with the version of covt that wrote it",
        )
    return state


class ShardReader:
    """The shard files of all ranks of one checkpoint, opened together and read lazily."""

    def __init__(self, folder: Path) -> None:
        self.state = read_state(folder)
        self.shapes: dict[str, list[int]] = self.state["parameters"]
        self._files = [
            safe_open(folder / f"rank_{rank}.safetensors", framework="pt") for rank in range(self.state["world_size"])
        ]
        self.keys = [set(file.keys()) for file in self._files]

    def read(self, rank: int, key: str) -> Tensor:
        """One tensor as rank `rank` wrote it."""
        return self._files[rank].get_tensor(key)

    def read_shard(self, kind: str, name: str, rank: int, world_size: int) -> Tensor:
        """The shard of parameter `name` that rank `rank` of `world_size` owns: [ceil(numel / world_size)], zero-padded.

        `world_size` may differ from the number of ranks that wrote the checkpoint.
        """
        numel = math.prod(self.shapes[name])
        size = math.ceil(numel / world_size)
        old_size = math.ceil(numel / len(self._files))
        start, end = min(numel, rank * size), min(numel, (rank + 1) * size)
        parts: list[Tensor] = []
        for old_rank, file in enumerate(self._files):
            first, last = max(start, old_rank * old_size), min(end, (old_rank + 1) * old_size)
            if first < last:
                stored = file.get_slice(f"{kind}/{name}")
                parts.append(stored[first - old_rank * old_size : last - old_rank * old_size])
        shard = torch.cat(parts) if parts else torch.empty(0)
        return torch.nn.functional.pad(shard, (0, size - shard.numel()))

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in the ranks' shard files, read in flat pieces.

    `shards` holds, for each rank, the file and the offset of its part. The bytes are read and not mapped, because
    mapped pages count as this process's memory as long as the file is open.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    shards: tuple[tuple[Path, int], ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Elements start … stop−1 of the flattened parameter."""
        size = math.ceil(math.prod(self.shape) / len(self.shards))
        parts: list[Tensor] = []
        for rank in range(start // size, -(-stop // size)):
            path, offset = self.shards[rank]
            first, last = max(start - rank * size, 0), min(stop - rank * size, size)
            part = torch.empty(last - first, dtype=self.dtype)
            with path.open("rb", buffering=0) as file:
                file.seek(offset + first * self.dtype.itemsize)
                if file.readinto(part.view(torch.uint8).numpy().data) != part.nbytes:
                    raise CheckpointError(f"{path} is truncated", "use an earlier checkpoint of the run")
            parts.append(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def stored_parameters(checkpoint_dir: Path) -> Iterator[tuple[str, StoredParameter]]:
    """(name, parameter) of a checkpoint, to be read in pieces, without ranks and without DeepSpeed.

    Trainable parameters are fp32; frozen parameters have the dtype they were trained with.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    checkpoint_dir = Path(checkpoint_dir)
    state = read_state(checkpoint_dir)
    wrong = files.find_damage(checkpoint_dir)
    if wrong:
        raise CheckpointError(f"{checkpoint_dir} is damaged: {wrong}", "use an earlier checkpoint of the run")
    paths = [checkpoint_dir / f"rank_{rank}.safetensors" for rank in range(state["world_size"])]
    headers = [_header(path) for path in paths]
    for name, shape in state["parameters"].items():
        entries = [header[f"weight/{name}"] for _, header in headers]
        shards = tuple(
            (path, data + entry["data_offsets"][0])
            for path, (data, _), entry in zip(paths, headers, entries, strict=True)
        )
        yield name, StoredParameter(tuple(shape), DTYPES[entries[0]["dtype"]], shards)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Offset of the first tensor in a safetensors file, and the file's header."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return 8 + size, json.loads(file.read(size))


def consolidate(checkpoint_dir: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every parameter of a checkpoint, one at a time."""
    for name, stored in stored_parameters(checkpoint_dir):
        yield name, stored.read(0, math.prod(stored.shape)).view(stored.shape)
