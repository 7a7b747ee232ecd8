"""How fast a training runs: floating-point operations of a decoder, peak of the device, memory in use."""

from __future__ import annotations

import resource
from dataclasses import dataclass

import torch

PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A6000": 155e12,
    "A40": 150e12,
    "4090": 165e12,
}
"""Dense bf16 matrix throughput in FLOP/s by a part of the device's name, from the vendor's data sheets."""


def peak_flops(device: torch.device) -> float | None:
    """Peak throughput of a device in bf16, FLOP/s; None for CPUs and for GPUs that are not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


@dataclass(frozen=True)
class DecoderWork:
    """FLOPs of a decoder's training, counted as in PaLM's appendix B (arXiv 2204.02311).

    A token costs 2 FLOPs per weight forward and 4 backward (2 where the weights are frozen, because their gradient is
    not computed). Its attention to T tokens costs 4·L·H·T forward, halved because it is causal, and twice that
    backward. What gradient checkpointing recomputes does not count.
    """

    weights: int
    """Elements of the matrices that a token is multiplied with: the layers, and the head where there is a loss."""
    layers: int
    width: int
    """Heads times head size."""
    trains_weights: bool = True

    def flops(self, lengths: list[int]) -> float:
        """FLOPs of one forward and backward over sequences of these lengths, in tokens."""
        tokens = float(sum(lengths))
        attended = float(sum(length * length for length in lengths))
        matrices = (6 if self.trains_weights else 4) * self.weights * tokens
        return matrices + 3 * 2 * self.layers * self.width * attended


def memory_gib(device: torch.device) -> float:
    """Peak memory of this process in GiB: allocated on the device, or on a CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
