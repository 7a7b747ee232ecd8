"""The files inside a checkpoint folder, and how a parameter is put together from the ranks' shards.

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
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from covt_runtime import files
from covt_runtime.errors import CheckpointError

FORMAT = 1
STATE = "state.json"


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
    """All ranks' shard files of one checkpoint, opened together; reads only what is asked for."""

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

    def read_whole(self, kind: str, name: str) -> Tensor:
        """Parameter `name` in its own shape."""
        return self.read_shard(kind, name, 0, 1).view(self.shapes[name])

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.clear()


def consolidate(checkpoint_dir: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, whole tensor) of every parameter of a checkpoint, one at a time, without ranks and without DeepSpeed.

    Trainable parameters come in fp32, frozen ones in the dtype they were kept in.
    """
    checkpoint_dir = Path(checkpoint_dir)
    read_state(checkpoint_dir)
    wrong = files.damage(checkpoint_dir)
    if wrong:
        raise CheckpointError(f"{checkpoint_dir} is damaged: {wrong}", "use an earlier checkpoint of the run")
    with ShardReader(checkpoint_dir) as reader:
        for name in reader.shapes:
            yield name, reader.read_whole("weight", name)
