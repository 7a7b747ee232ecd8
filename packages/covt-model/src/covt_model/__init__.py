"""A vision-language model that reasons with latent visual tokens. Importing the package imports no PyTorch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_model.checkpoints.hf_folder import write_checkpoint
    from covt_model.checkpoints.latent_checkpoint import load_model, prepare_checkpoint
    from covt_model.checkpoints.lora import add_lora
    from covt_model.checkpoints.model_card import Facts
    from covt_model.checkpoints.split_load import load_split
    from covt_model.checkpoints.tiny_checkpoint import build_tiny
    from covt_model.encoding.batch import Batch, collate
    from covt_model.encoding.encode import Encoder
    from covt_model.encoding.prompt import PromptConfig
    from covt_model.encoding.row_images import Picture
    from covt_model.encoding.vision_features import VisionFeatures
    from covt_model.families import find_family
    from covt_model.families.family import Family
    from covt_model.generation.latent_generation import generate
    from covt_model.latent_config import LatentConfig
    from covt_model.latents.latent_modes import LatentMode
    from covt_model.latents.policy import LatentPolicy
    from covt_model.model_errors import CheckpointError, ModelError
    from covt_model.targets.alignment_targets import make_targets

_HOMES = {
    "Batch": "covt_model.encoding.batch",
    "CheckpointError": "covt_model.model_errors",
    "Encoder": "covt_model.encoding.encode",
    "Facts": "covt_model.checkpoints.model_card",
    "Family": "covt_model.families.family",
    "LatentConfig": "covt_model.latent_config",
    "LatentMode": "covt_model.latents.latent_modes",
    "LatentPolicy": "covt_model.latents.policy",
    "ModelError": "covt_model.model_errors",
    "Picture": "covt_model.encoding.row_images",
    "PromptConfig": "covt_model.encoding.prompt",
    "VisionFeatures": "covt_model.encoding.vision_features",
    "add_lora": "covt_model.checkpoints.lora",
    "build_tiny": "covt_model.checkpoints.tiny_checkpoint",
    "collate": "covt_model.encoding.batch",
    "find_family": "covt_model.families",
    "generate": "covt_model.generation.latent_generation",
    "load_model": "covt_model.checkpoints.latent_checkpoint",
    "load_split": "covt_model.checkpoints.split_load",
    "make_targets": "covt_model.targets.alignment_targets",
    "prepare_checkpoint": "covt_model.checkpoints.latent_checkpoint",
    "write_checkpoint": "covt_model.checkpoints.hf_folder",
}

__all__ = [
    "Batch",
    "CheckpointError",
    "Encoder",
    "Facts",
    "Family",
    "LatentConfig",
    "LatentMode",
    "LatentPolicy",
    "ModelError",
    "Picture",
    "PromptConfig",
    "VisionFeatures",
    "add_lora",
    "build_tiny",
    "collate",
    "find_family",
    "generate",
    "load_model",
    "load_split",
    "make_targets",
    "prepare_checkpoint",
    "write_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
