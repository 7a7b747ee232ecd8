"""The files inside a checkpoint folder, and how a parameter is assembled from the ranks' shards.

state.json            format, step, number of ranks, every parameter's shape, schedule, the caller's `extra`
rank_R.safetensors    rank R's fp32 shards of trained parameters: weight/<name>, exp_avg/<name>, exp_avg_sq/<name>;
                      adam_step/<group>, rng/<generator>, user/<caller's name>
rank_R.json           rank R's Python and numpy generators
manifest.json         size and SHA-256 of the files above

Frozen parameters are not stored, as they are those of the model that the run began with. Format 1 stored them, in the
model's dtype.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from covt_runtime import files
from covt_runtime.checkpoints.tensor_file import TensorFile
from covt_runtime.runtime_errors import CheckpointError

FORMAT = 2
READABLE = (1, FORMAT)
STATE = "state.json"


class Stored(Protocol):
    """A parameter in files, read in flat pieces."""

    @property
    def shape(self) -> Sequence[int]: ...

    def read(self, start: int, stop: int) -> Tensor:
        """Elements start … stop−1 of the flattened parameter."""
        ...


def read_state(folder: Path) -> dict[str, Any]:
    """The checkpoint's `state.json`."""
    path = folder / STATE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {STATE}", "give a folder like runs/NAME/checkpoints/step_100"
        )
    state = json.loads(path.read_text())
    if state.get("format") not in READABLE:
        raise CheckpointError(
            f"{folder} has checkpoint format {state.get('format')}, this version reads up to {FORMAT}",
            "read it with the version of covt that wrote it",
        )
    return state


class ShardReader:
    """The shard files of all ranks of one checkpoint, opened together and read lazily."""

    def __init__(self, folder: Path) -> None:
        self.state = read_state(folder)
        self.shapes: dict[str, list[int]] = self.state["parameters"]
        self._files = [TensorFile(folder / f"rank_{rank}.safetensors") for rank in range(self.state["world_size"])]
        self.keys = [set(file.entries) for file in self._files]

    def read(self, rank: int, key: str) -> Tensor:
        """One tensor as rank `rank` wrote it."""
        return self._files[rank].read(key)

    def read_shard(self, kind: str, name: str, rank: int, world_size: int) -> Tensor:
        """The shard of parameter `name` that rank `rank` of `world_size` owns: [ceil(numel / world_size)], zero-padded.

        `world_size` may differ from the number of ranks that wrote the checkpoint.
        """
        numel = math.prod(self.shapes[name])
        size = math.ceil(numel / world_size)
        old_size = math.ceil(numel / len(self._files))
        start, end = min(numel, rank * size), min(numel, (rank + 1) * size)
        key = f"{kind}/{name}"
        shard = torch.zeros(size, dtype=self._files[0].dtype(key))
        for old_rank, file in enumerate(self._files):
            first, last = max(start, old_rank * old_size), min(end, (old_rank + 1) * old_size)
            if first < last:
                file.read_into(key, first - old_rank * old_size, shard[first - start : last - start])
        return shard


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in the ranks' shard files, read in flat pieces."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    key: str
    shards: tuple[TensorFile, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Elements start … stop−1 of the flattened parameter."""
        size = math.ceil(math.prod(self.shape) / len(self.shards))
        found = torch.empty(stop - start, dtype=self.dtype)
        for rank in range(start // size, -(-stop // size)):
            first, last = max(start, rank * size), min(stop, (rank + 1) * size)
            self.shards[rank].read_into(self.key, first - rank * size, found[first - start : last - start])
        return found


def stored_parameters(
    checkpoint_dir: Path, frozen: Callable[[str, str], Stored] | None = None
) -> Iterator[tuple[str, Stored]]:
    """(name, parameter) of a checkpoint, to be read in pieces, without ranks and without DeepSpeed.

    Args:
        checkpoint_dir: a `step_N` folder. Trained parameters are fp32 there.
        frozen: finds a parameter that was not trained, by its name, in the dtype (`zero.dtype`) that it had.

    Raises:
        CheckpointError: the checkpoint is damaged, or lacks frozen parameters and `frozen` is not given.
    """
    checkpoint_dir = Path(checkpoint_dir)
    state = read_state(checkpoint_dir)
    wrong = files.find_damage(checkpoint_dir)
    if wrong:
        raise CheckpointError(f"{checkpoint_dir} is damaged: {wrong}", "use an earlier checkpoint of the run")
    ranks = tuple(TensorFile(checkpoint_dir / f"rank_{rank}.safetensors") for rank in range(state["world_size"]))
    for name, shape in state["parameters"].items():
        key = f"weight/{name}"
        if key in ranks[0].entries:
            yield name, StoredParameter(tuple(shape), ranks[0].dtype(key), key, ranks)
        elif frozen is not None:
            yield name, frozen(name, state["zero"]["dtype"])
        else:
            raise CheckpointError(
                f"{checkpoint_dir} has trained parameters only; {name} is one of the model that the run began with",
                "use `covt export`, which reads both",
            )


def consolidate(checkpoint_dir: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, full tensor) of every trained parameter of a checkpoint, one at a time."""
    for name, stored in stored_parameters(checkpoint_dir, lambda *_: _NOTHING):
        if stored is not _NOTHING:
            yield name, stored.read(0, math.prod(stored.shape)).view(*stored.shape)


_NOTHING: Stored = StoredParameter((0,), torch.float32, "", ())
