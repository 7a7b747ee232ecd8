"""Join the group of ranks this process belongs to, and describe this process's place in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_runtime.runtime_errors import LaunchError

if TYPE_CHECKING:
    import torch

Event = dict[str, Any]


def _drop(event: Event) -> None:
    """Events of ranks other than 0 go nowhere."""


@dataclass(frozen=True)
class Worker:
    """One rank. `emit` reports a JSON-able event to the process that started the job; only rank 0's arrive."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    log_dir: Path
    emit: Callable[[Event], None] = field(default=_drop)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        import torch.distributed as dist

        dist.barrier()


def launched_from_outside(env: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, deepspeed, accelerate or srun already started this process as one rank of several."""
    return "RANK" in env or ("MASTER_ADDR" in env and int(env.get("SLURM_NTASKS", "1")) > 1)


def place_in_group(env: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """(rank, local_rank, world_size) from torchrun's variables, or from Slurm's."""
    slurm = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE") if "RANK" in env else slurm
    missing = [name for name in names if name not in env]
    if missing:
        raise LaunchError(
            f"{names[0]} is set but {', '.join(missing)} is not",
            "start with torchrun, deepspeed, accelerate launch or srun, which set all of them, or unset RANK",
        )
    rank, local_rank, world_size = (int(env[name]) for name in names)
    return rank, local_rank, world_size


def is_main_process(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process speaks for a training: it starts the ranks itself, or is rank 0 of another launcher's."""
    return not launched_from_outside(env) or place_in_group(env)[0] == 0


def ranks_here(env: Mapping[str, str] = os.environ) -> tuple[int, bool]:
    """How many of another launcher's ranks are on this machine, and whether rank 0 is one of them.

    torchrun and accelerate, deepspeed, and Slurm with --ntasks-per-node say how many; without that, all are. Ranks of
    one machine are taken to follow one another, as they do by default.
    """
    rank, local_rank, world_size = place_in_group(env)
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
    return next((int(env[name]) for name in names if name in env), world_size), rank == local_rank


def visible_gpus(env: Mapping[str, str] = os.environ) -> int:
    """How many GPUs this process may use, found without importing torch."""
    if env.get("DS_ACCELERATOR") == "cpu":
        return 0
    if "CUDA_VISIBLE_DEVICES" in env:
        return len([d for d in env["CUDA_VISIBLE_DEVICES"].split(",") if d.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])


def join_group(
    *,
    log_dir: Path,
    init_method: str | None = None,
    emit: Callable[[Event], None] = _drop,
    timeout_minutes: float = 30,
    gpu: int | None = None,
) -> Worker:
    """Initialize torch.distributed for this process and return its Worker.

    NCCL on GPUs; gloo and one thread a rank on CPUs. `init_method` is torch's; None reads MASTER_ADDR and MASTER_PORT.
    `gpu`: number of this rank's; None is its local rank.
    """
    rank, local_rank, world_size = place_in_group()
    on_gpu = visible_gpus() > 0
    if gpu is not None:
        # DeepSpeed takes the GPU of this number too.
        local_rank = gpu
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(local_rank), WORLD_SIZE=str(world_size))
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")

    import torch
    import torch.distributed as dist

    if on_gpu:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        # Without it DeepSpeed asks numactl, a process of its own, how many devices there are, at every step.
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=init_method or "env://",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(minutes=timeout_minutes),
            device_id=device if on_gpu else None,
        )
    return Worker(rank, local_rank, world_size, device, log_dir, emit if rank == 0 else _drop)


def leave_group() -> None:
    """End this process's groups, whose threads must not outlive the interpreter: gloo's abort the process then."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
