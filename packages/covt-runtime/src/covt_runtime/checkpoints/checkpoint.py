"""Checkpoints of a sharded training: `checkpoints/step_N/` is complete or absent.

Every rank writes its shards of the trained parameters into a hidden folder and reads them back. When all shards are
there, the folder is renamed, `latest` is moved, and old checkpoints are removed, except the best. Tensors are
safetensors and the rest is JSON, so nothing is unpickled. `shard_files` describes the files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from covt_runtime import files
from covt_runtime.checkpoints.shard_files import FORMAT, STATE, ShardReader
from covt_runtime.checkpoints.tensor_file import first_difference, write_tensors
from covt_runtime.engine.rng import rng_state, set_rng_state
from covt_runtime.engine.zero_engine import ZeroEngine
from covt_runtime.runtime_errors import CheckpointError


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint holds for the caller, besides model, optimizer, schedule and random generators."""

    step: int
    extra: dict[str, Any]
    tensors: dict[str, Tensor]
    path: Path


class CheckpointStore:
    """The checkpoints of one run. The newest `keep` checkpoints and the best one are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first; damaged checkpoints are included."""
        names = [path.name.removeprefix("step_") for path in self.folder.glob("step_*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def latest(self) -> Path | None:
        """The newest checkpoint."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def best(self) -> Path | None:
        """The checkpoint last saved with `best=True`."""
        return self._pointer("best")

    def _pointer(self, name: str) -> Path | None:
        file = self.folder / name
        path = self.folder / file.read_text().strip() if file.is_file() else None
        return path if path is not None and path.is_dir() else None

    def save(
        self,
        step: int,
        engine: ZeroEngine,
        *,
        extra: dict[str, Any] | None = None,
        tensors: dict[str, Tensor] | None = None,
        best: bool = False,
    ) -> Path:
        """Write `step_N` (collective).

        Args:
            step: optimizer step, counted from 1.
            engine: the model, optimizer and schedule to save.
            extra: JSON-able and the same on all ranks.
            tensors: this rank's own tensors. One named "<kind>/<parameter name>" with the layout of
                `ZeroEngine.named_shards` can be loaded on another number of ranks; "rank/<name>" is dropped there.
            best: also mark the checkpoint as the best one.

        Raises:
            CheckpointError: the disk is full, or states are offloaded to NVMe.
        """
        if engine.zero.offload_optimizer == "nvme" or engine.zero.offload_parameters == "nvme":
            raise CheckpointError(
                "states offloaded to NVMe can't be saved",
                "set zero.offload_optimizer=cpu and zero.offload_parameters=none",
            )
        final, aside = self.path(step), self.folder / f".step_{step}.partial"
        with files.disk_errors(self.folder):
            if engine.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                for leftover in self.folder.glob(".step_*"):
                    shutil.rmtree(leftover)
                aside.mkdir()
            dist.barrier()
            self._write_rank(aside, engine, tensors or {})
            dist.barrier()
            if engine.rank == 0:
                self._write_state(aside, step, engine, extra or {})
                files.write_manifest(aside)
                files.sync_file(aside)
                if final.exists():
                    files.remove_folder(final)
                aside.rename(final)
                files.write_text(self.folder / "latest", final.name)
                if best:
                    files.write_text(self.folder / "best", final.name)
                files.sync_file(self.folder)
                self._prune()
            dist.barrier()
        return final

    @staticmethod
    def _write_rank(folder: Path, engine: ZeroEngine, tensors: dict[str, Tensor]) -> None:
        plain, generators = rng_state()
        content = {f"weight/{name}": shard for name, shard in engine.trainable_shards().items()}
        content |= engine.moment_shards()
        content |= {f"rng/{name}": state for name, state in generators.items()}
        content |= {f"user/{name}": tensor for name, tensor in tensors.items()}
        path = folder / f"rank_{engine.rank}.safetensors"
        write_tensors(path, content)
        files.sync_file(path)
        files.write_json(folder / f"rank_{engine.rank}.json", plain)
        if (key := first_difference(path, content)) is not None:
            raise CheckpointError(f"{path} doesn't read back as written ({key})", "check the disk")

    @staticmethod
    def _write_state(folder: Path, step: int, engine: ZeroEngine, extra: dict[str, Any]) -> None:
        state = {
            "format": FORMAT,
            "step": step,
            "world_size": engine.world_size,
            "schedule": engine.schedule_state(),
            "optim": engine.optim.model_dump(mode="json"),
            "zero": engine.zero.model_dump(mode="json"),
            "extra": extra,
            "parameters": _shapes(engine),
        }
        files.write_json(folder / STATE, state)

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if self.path(step) != best:
                files.remove_folder(self.path(step))

    def load(
        self, engine: ZeroEngine, step: int | None = None, on_note: Callable[[str], None] | None = None
    ) -> LoadedCheckpoint | None:
        """Restore `engine` and the random generators from a checkpoint (collective).

        On the same number of ranks, training continues exactly. On another number, the shards are divided anew and the
        random generators start afresh.

        Args:
            engine: the engine to restore.
            step: the checkpoint's step; None takes the newest undamaged checkpoint.
            on_note: called on rank 0 with a line of text for each damaged checkpoint that is skipped.

        Returns:
            What the checkpoint holds for the caller; None where there is no checkpoint.

        Raises:
            CheckpointError: there is no checkpoint of `step`, or it or all checkpoints are damaged.
        """
        steps = _same_on_all_ranks(self.steps(), engine)
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(
                f"{self.folder} has no checkpoint of step {step}", f"choose one of these steps: {known}"
            )
        for candidate in [step] if step is not None else reversed(steps):
            path = self.path(candidate)
            wrong = files.find_damage(path, engine.rank, engine.world_size)
            if not engine.global_max(float(wrong is not None)):
                return self._restore(engine, candidate, on_note)
            message = f"checkpoint {path} is damaged ({wrong or 'seen by another rank'})"
            if step is not None:
                raise CheckpointError(message, "resume from another step, or from the newest")
            if engine.rank == 0 and on_note is not None:
                on_note(f"{message}; using the previous one")
        if steps:
            raise CheckpointError(f"all checkpoints in {self.folder} are damaged", "start again without --resume")
        return None

    def _restore(self, engine: ZeroEngine, step: int, on_note: Callable[[str], None] | None) -> LoadedCheckpoint:
        path = self.path(step)
        reader = ShardReader(path)
        _check_same_model(engine, reader, path)
        rank, world_size = engine.rank, engine.world_size
        same_ranks = reader.state["world_size"] == world_size
        for name, shard in engine.trainable_shards().items():
            shard.copy_(reader.read_shard("weight", name, rank, world_size))
        engine.adopt_shards()
        engine.reset_optimizer(engine.optim, engine.total_steps)
        if any(key.startswith("adam_step/") for key in reader.keys[0]):
            engine.create_moments()
            for key, shard in engine.moment_shards().items():
                kind, name = key.split("/", 1)
                whole = kind == "adam_step"
                shard.copy_(reader.read(0, key) if whole else reader.read_shard(kind, name, rank, world_size))
        engine.load_schedule_state(reader.state["schedule"])
        tensors = _user_tensors(reader, rank, world_size)
        if same_ranks:
            generators = {
                key.removeprefix("rng/"): reader.read(rank, key) for key in reader.keys[rank] if key.startswith("rng/")
            }
            set_rng_state(json.loads((path / f"rank_{rank}.json").read_text()), generators)
        elif rank == 0 and on_note is not None:
            on_note(
                f"{path} was written by {reader.state['world_size']} ranks and is read by {world_size}: "
                "the random generators start afresh"
            )
        return LoadedCheckpoint(step, reader.state["extra"], tensors, path)


def _same_on_all_ranks(steps: list[int], engine: ZeroEngine) -> list[int]:
    """Rank 0's list. On a network disk, another rank may not see the newest folder yet."""
    length = int(engine.global_max(float(len(steps) if engine.rank == 0 else 0)))
    mine = torch.tensor(steps if engine.rank == 0 else [0] * length, dtype=torch.float64)
    return [int(value) for value in engine.global_sum(mine)]


def _shapes(engine: ZeroEngine) -> dict[str, list[int]]:
    parameters: list[tuple[str, Any]] = list(engine.module.named_parameters())
    return {name: list(p.ds_shape) for name, p in parameters}


def _check_same_model(engine: ZeroEngine, reader: ShardReader, path: Path) -> None:
    model = _shapes(engine)
    saved = reader.shapes
    different = sorted(name for name in model.keys() | saved.keys() if model.get(name) != saved.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} is of another model: {len(different)} parameters differ, {name} is {saved.get(name)} there and "
            f"{model.get(name)} here",
            "resume with the recipe the run was started with (its config.json)",
        )


def _user_tensors(reader: ShardReader, rank: int, world_size: int) -> dict[str, Tensor]:
    """The caller's tensors; on another number of ranks only shards of parameters are meaningful."""
    if reader.state["world_size"] == world_size:
        keys = [key for key in reader.keys[rank] if key.startswith("user/")]
        return {key.removeprefix("user/"): reader.read(rank, key) for key in sorted(keys)}
    tensors = {}
    for key in sorted(key for key in reader.keys[0] if key.startswith("user/")):
        kind, _, name = key.removeprefix("user/").partition("/")
        if kind == "rank":
            continue
        if name not in reader.shapes:
            raise CheckpointError(
                f"the checkpoint's {key} belongs to one of {reader.state['world_size']} ranks and can't be divided "
                f"among {world_size}",
                f"resume on {reader.state['world_size']} ranks",
            )
        tensors[f"{kind}/{name}"] = reader.read_shard(f"user/{kind}", name, rank, world_size)
    return tensors
