"""Whether this machine can hold a training, told before anything is started."""

import os
import subprocess
from dataclasses import dataclass
from typing import Any

from covt_runtime.launch.workers import CPU_RANKS
from covt_runtime.process_environment import launched_from_outside, place_in_group, visible_gpus
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig
from covt_sft.sizes import GIB, Memory, ModelSize, adapter_parameters, memory


@dataclass(frozen=True)
class Machine:
    """Devices of this machine and their memory in bytes; no GPUs means that ranks share the host's memory."""

    gpus: int
    gpu_bytes: float
    host_bytes: float

    @classmethod
    def here(cls) -> "Machine":
        gpus = visible_gpus()
        return cls(gpus, _gpu_bytes() if gpus else 0.0, float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))


def _gpu_bytes() -> float:
    """Memory of the smallest GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    return min(float(mebibytes) for mebibytes in listed) * 2**20


def needed(config: SftConfig, model: dict[str, Any], ranks: int) -> Memory:
    """Memory of one of `ranks` ranks for a model's config.json."""
    size = ModelSize.of(model)
    text = model.get("text_config") or model
    trainable = adapter_parameters(size, text, config.lora.rank) if config.lora.rank else size.language
    data = config.data
    tokens = min(data.micro_tokens or data.micro_batch * data.max_length, data.micro_batch * data.max_length)
    return memory(size, config, ranks, trainable=trainable, tokens=tokens)


def planned_ranks(config: SftConfig, machine: Machine) -> int:
    """How many ranks will train, over all machines."""
    if launched_from_outside():
        return place_in_group()[2]
    return config.run.ranks or machine.gpus or CPU_RANKS


def check_fits(config: SftConfig, model: dict[str, Any], name: str, machine: Machine, ranks: int) -> None:
    """Raise SftError where one rank needs more than its device has, or all ranks here more than the host."""
    need = needed(config, model, ranks)
    remedy = "use more GPUs, zero.offload_optimizer=cpu, lora.rank=16 or a smaller model (see docs/training.md)"
    if not machine.gpus:
        # Picture features only fill what they are given if there are that many pictures.
        whole = ranks * (need.device_total + need.host_total - need.device["picture features"])
        if whole > machine.host_bytes:
            raise SftError(
                f"{name} on {ranks} CPU ranks needs about {whole / GIB:.0f} GiB and this machine, which has no GPU, "
                f"has {machine.host_bytes / GIB:.0f} GiB",
                remedy,
            )
        return
    if need.device_total > machine.gpu_bytes:
        raise SftError(
            f"{name} on {ranks} GPUs needs about {need.device_total / GIB:.0f} GiB on each, which have "
            f"{machine.gpu_bytes / GIB:.0f} GiB",
            remedy,
        )
    here = min(ranks, machine.gpus) * need.host_total
    if here > machine.host_bytes:
        raise SftError(
            f"{name} offloads about {here / GIB:.0f} GiB to this machine's memory, which has "
            f"{machine.host_bytes / GIB:.0f} GiB",
            "use more machines, or offload to nvme",
        )
