"""What the environment says about this process: its place among the ranks, and the machine's GPUs and memory.

Importing this needs no torch.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from covt_runtime.runtime_errors import LaunchError


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
    """Whether this process reports for a training: it starts the ranks itself, or is rank 0 of another launcher."""
    return not launched_from_outside(env) or place_in_group(env)[0] == 0


def ranks_here(env: Mapping[str, str] = os.environ) -> tuple[int, bool]:
    """How many of another launcher's ranks run on this machine, and whether rank 0 is one of them.

    torchrun, accelerate, deepspeed, and Slurm with --ntasks-per-node give the number; otherwise all ranks are assumed
    to be here. The ranks of one machine are assumed to be consecutive, as they are by default.
    """
    rank, local_rank, world_size = place_in_group(env)
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
    return next((int(env[name]) for name in names if name in env), world_size), rank == local_rank


def visible_gpus(env: Mapping[str, str] = os.environ) -> int:
    """How many GPUs this process may use."""
    if env.get("DS_ACCELERATOR") == "cpu":
        return 0
    if "CUDA_VISIBLE_DEVICES" in env:
        return len([d for d in env["CUDA_VISIBLE_DEVICES"].split(",") if d.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])


@dataclass(frozen=True)
class Machine:
    """Devices of this machine and their memory in bytes. Without GPUs, the ranks share the host's memory."""

    gpus: int
    gpu_bytes: float
    """Memory of the smallest GPU."""
    host_bytes: float

    @classmethod
    def here(cls) -> Machine:
        """The machine that this process runs on."""
        gpus = visible_gpus()
        host_bytes = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        return cls(gpus, smallest_gpu_bytes() if gpus else 0.0, host_bytes)


def smallest_gpu_bytes() -> float:
    """Memory of the smallest GPU, as nvidia-smi reports it."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    return min(float(mebibytes) for mebibytes in listed) * 2**20
