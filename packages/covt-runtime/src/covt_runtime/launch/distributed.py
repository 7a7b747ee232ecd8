"""Join the group of ranks this process belongs to, and describe this process's place in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covt_runtime.process_environment import place_in_group, visible_gpus

if TYPE_CHECKING:
    import torch

Event = dict[str, Any]
COLLECTIVE_MINUTES = 30.0
"""Minutes that a rank waits for the others, unless the caller says otherwise."""


def _drop(event: Event) -> None:
    """Ignore an event of a rank other than 0."""


@dataclass(frozen=True)
class Worker:
    """One rank. `emit` sends a JSON-able event to the process that started the job; only rank 0's events arrive."""

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
        """Wait until every rank has called this."""
        import torch.distributed as dist

        dist.barrier()


def join_group(
    *,
    log_dir: Path,
    init_method: str | None = None,
    emit: Callable[[Event], None] = _drop,
    timeout_minutes: float = COLLECTIVE_MINUTES,
    gpu: int | None = None,
) -> Worker:
    """Initialize torch.distributed for this process: NCCL on GPUs, gloo with one thread per rank on CPUs.

    Args:
        log_dir: folder for this rank's files.
        init_method: torch's; None reads MASTER_ADDR and MASTER_PORT.
        emit: what rank 0's events are given to.
        timeout_minutes: longest wait of a collective.
        gpu: number of this rank's GPU; None takes the local rank.
    """
    rank, local_rank, world_size = place_in_group()
    on_gpu = visible_gpus() > 0
    if gpu is not None:
        # DeepSpeed takes its GPU from the same variable.
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
        # Otherwise DeepSpeed starts numactl at every step to count the devices.
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
    """Destroy this process's groups. Gloo's threads abort the process if they outlive the interpreter."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
