"""The parts that one rank of a supervised training is made of, built from the recipe and the starting checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from covt_data.schema import Row
from covt_model.checkpoints.lora import add_lora
from covt_model.checkpoints.split_load import load_split
from covt_model.encoding.encode import Encoder
from covt_model.encoding.prompt import PromptConfig
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latent_config import LatentConfig
from covt_model.latents.policy import LatentPolicy
from covt_runtime.engine.optimizer_settings import OptimConfig
from covt_runtime.engine.weights import DTYPES
from covt_runtime.engine.zero_sharding import ZeroSharding
from covt_runtime.recipe_schema import LatentSection
from covt_sft.batches.row_checks import RowChecks
from covt_sft.batches.sample_source import SampleSource
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig, StageSection


def build_encoder(config: SftConfig, checkpoint: Path) -> Encoder:
    """The encoder of the recipe's prompt and method.

    Raises:
        SftError: the checkpoint has other latent settings than the recipe.
    """
    encoder = Encoder(
        checkpoint,
        PromptConfig(system=config.prompt.system, template=config.prompt.template),
        mode=config.method,
        selection=config.latent.selection,
        max_length=config.data.max_length,
        require_latent=config.latent.required,
    )
    check_latent_settings(encoder.latent, config.latent, checkpoint)
    return encoder


def check_latent_settings(found: LatentConfig, section: LatentSection, checkpoint: Path) -> None:
    """Refuse a checkpoint with other latent settings than the recipe; `head = "none"` (pause) fits any.

    Raises:
        SftError: naming the setting, both values and the key to set.
    """
    settings = {
        "size": (found.size, section.size),
        "normalize": (found.normalize, section.normalize),
        "head": (found.head, section.head),
    }
    for key, (has, wanted) in settings.items():
        if has != wanted and has != "none":
            raise SftError(
                f"{checkpoint} has latent {key} {has!r}; the recipe says {wanted!r}",
                f"set latent.{key} to the checkpoint's",
            )


def build_policy(
    config: SftConfig, encoder: Encoder, checkpoint: Path, device: torch.device, *, keeps_features: bool
) -> tuple[LatentPolicy, VisionFeatures]:
    """The trainable language model, with adapters where the recipe has them, and the frozen vision tower's features."""
    model, visual = load_split(
        checkpoint,
        DTYPES[config.zero.dtype],
        device,
        attention=config.model.attention,
        sharding=ZeroSharding(config.zero, maps=device.type == "cpu" and config.lora.rank > 0),
    )
    if config.lora.rank:
        add_lora(model, encoder.latent, **config.lora.model_dump())
    # The pause control keeps the pads' own embedding, and its checkpoint says so.
    latent = replace(encoder.latent, head="none") if config.method == "pause" else encoder.latent
    policy = LatentPolicy(model, latent, config.method, checkpoint=config.model.gradient_checkpointing)
    capacity = int(config.data.feature_cache_gib * 2**30)
    features = VisionFeatures(
        visual,
        encoder.settings,
        batch_patches=config.data.vision_patches,
        capacity_bytes=capacity,
        keeps=keeps_features,
    )
    return policy, features


def build_source(config: SftConfig, encoder: Encoder, rows: Sequence[Row], device: torch.device) -> SampleSource:
    """Encoded rows, with the checks that the recipe asks for."""
    selects = config.method == "latent" and config.latent.selection == "ilvr"
    limit = config.data.max_pixels if config.data.oversize == "refuse" else None
    checks = RowChecks(limit, config.latent.size, selects=selects)
    return SampleSource(rows, encoder, config.data, checks, device=device)


def stage_optimizer(config: SftConfig, stage: StageSection) -> OptimConfig:
    """The recipe's optimizer with the learning rate and schedule of a stage."""
    values = {"lr": stage.lr, "schedule": stage.schedule, "warmup_steps": stage.warmup_steps}
    return config.optim.model_copy(update=values)
