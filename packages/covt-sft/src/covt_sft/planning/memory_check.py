"""Estimate the memory of a supervised training, and refuse one that this machine can't hold before anything starts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from covt_data.images.pixel_limits import PixelLimits
from covt_data.schema import Row
from covt_data.stream.row_tokens import longest_row
from covt_model.families import find_family, read_image_settings
from covt_runtime.engine.memory_estimate import GIB, MemoryEstimate, ModelShape, TrainingSettings, estimate_memory
from covt_runtime.engine.memory_fit import COMMON_CHANGES, Change, settings_that_fit
from covt_runtime.engine.model_shape import model_shape
from covt_runtime.launch.workers import CPU_RANKS
from covt_runtime.process_environment import Machine, launched_from_outside, place_in_group
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig

CHANGES: Sequence[Change] = (
    {"data.feature_cache_gib": 0.25, "data.sample_cache_gib": 0.1},
    {"latent.teacher": "frozen"},
    *COMMON_CHANGES,
)
"""What an error proposes, the least costly first."""


@dataclass(frozen=True)
class MemoryInputs:
    """What the memory of a training follows from, besides its recipe.

    Attributes:
        model: the checkpoint's config.json.
        ranks: training processes on all machines.
        on_gpu: whether they train on GPUs.
        longest: tokens of the longest row.
        data_bytes: size of the prepared set.
    """

    model: dict[str, Any]
    ranks: int
    on_gpu: bool
    longest: int
    data_bytes: float = float("inf")

    def estimate(self, config: SftConfig) -> MemoryEstimate:
        """Memory of one rank.

        Raises:
            ConfigError: `lora.targets` names a layer that the model doesn't have.
        """
        data, latent = config.data, config.latent
        longest = data.micro_batch * min(self.longest, data.max_length)
        averaged = config.method == "latent" and latent.selection == "ilvr" and latent.teacher == "ema"
        settings = TrainingSettings(
            zero=config.zero,
            lora=config.lora,
            ranks=self.ranks,
            tokens=min(data.micro_tokens or longest, longest),
            tokens_key="data.micro_tokens" if data.micro_tokens else "data.micro_batch or data.max_length",
            gradient_checkpointing=config.model.gradient_checkpointing,
            copies={"teacher": "latent.teacher=frozen"} if averaged else {},
            feature_cache=min(data.feature_cache_gib * GIB, self.data_bytes) if self.on_gpu else 0.0,
            unrolls=config.method == "latent" and config.stage2.steps != 0,
            patches=data.vision_patches,
            on_gpu=self.on_gpu,
            sample_cache=min(data.sample_cache_gib * GIB, self.data_bytes),
        )
        return estimate_memory(shape_of(self.model), settings)


def shape_of(config: dict[str, Any]) -> ModelShape:
    """The shape of a model from its config.json, with what its family counts."""
    family = find_family(config)
    return model_shape(
        config,
        layer_vectors=family.layer_vectors(config.get("text_config") or config),
        vision_parameters=family.vision_parameters(config["vision_config"]),
    )


def planned_ranks(config: SftConfig, gpus: int) -> int:
    """How many ranks will train on all machines, for a machine with this many GPUs."""
    if launched_from_outside():
        return place_in_group()[2]
    return config.run.ranks or gpus or CPU_RANKS


def estimated_longest(rows: Sequence[Row], config: SftConfig, checkpoint: Path | None) -> int:
    """Tokens of the longest row, with the image limits of the checkpoint, where its files are at hand."""
    limits = PixelLimits()
    if checkpoint is not None:
        settings = read_image_settings(checkpoint)
        limits = PixelLimits(settings.min_pixels, settings.max_pixels, settings.cell)
    return longest_row(rows, limits, latents=config.latent.size if config.method != "plain" else 0)


def check_memory(config: SftConfig, inputs: MemoryInputs, name: str, machine: Machine) -> None:
    """Refuse a training whose ranks don't fit this machine.

    Args:
        config: the recipe.
        inputs: what else its memory follows from.
        name: what the error calls the model.
        machine: the devices of this machine.

    Raises:
        SftError: one rank needs more than a GPU has, or the ranks of this machine more than its host memory.
    """
    for sentence, needed, has in _limits(machine, inputs, name):
        need = needed(inputs.estimate(config))
        if need <= has:
            continue
        found = settings_that_fit(
            config,
            CHANGES,
            lambda other: all(n(inputs.estimate(other)) <= h for _, n, h in _limits(machine, inputs, name)),
        )
        largest = inputs.estimate(config).remedies()
        raise SftError(
            sentence(f"{need / GIB:.0f} GiB", f"{has / GIB:.0f} GiB"),
            f"it fits with {found} (see docs/training.md)"
            if found
            else f"use more GPUs or a smaller model, or lower the largest parts: {largest} (see docs/training.md)",
        )


Limit = tuple[Callable[[str, str], str], Callable[[MemoryEstimate], float], float]


def _limits(machine: Machine, inputs: MemoryInputs, name: str) -> list[Limit]:
    """What must fit where: a sentence, the bytes that an estimate needs there, and those that the machine has."""
    ranks = inputs.ranks

    def on_cpus(need: str, has: str) -> str:
        return f"{name} on {ranks} CPU ranks needs about {need} and this machine, which has no GPU, has {has}"

    def on_gpus(need: str, has: str) -> str:
        return f"{name} on {ranks} GPUs needs about {need} on each, which have {has}"

    def offloaded(need: str, has: str) -> str:
        return f"{name} offloads about {need} to this machine's memory, which has {has}"

    if not machine.gpus:
        return [(on_cpus, lambda need: need.machine_total(ranks), machine.host_bytes)]
    here = min(ranks, machine.gpus)
    return [
        (on_gpus, lambda need: need.device_total, machine.gpu_bytes),
        (offloaded, lambda need: here * need.host_total, machine.host_bytes),
    ]
