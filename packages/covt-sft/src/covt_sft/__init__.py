"""Supervised training of latent visual reasoning: ILVR stages 1 and 2, with the controls `pause` and `plain`.

Folders in their order: top modules < planning < batches < losses < training. May not import rollout, eval or rl.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_sft.planning.memory_check import MemoryInputs
    from covt_sft.planning.plan import SftPlan, plan
    from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint
    from covt_sft.sft_errors import SftError
    from covt_sft.sft_job import SftJob
    from covt_sft.sft_recipe import SftConfig
    from covt_sft.training.train import train

_HOMES = {
    "MemoryInputs": "covt_sft.planning.memory_check",
    "SftConfig": "covt_sft.sft_recipe",
    "SftError": "covt_sft.sft_errors",
    "SftJob": "covt_sft.sft_job",
    "SftPlan": "covt_sft.planning.plan",
    "build_tiny_checkpoint": "covt_sft.planning.starting_checkpoint",
    "plan": "covt_sft.planning.plan",
    "train": "covt_sft.training.train",
}

__all__ = [
    "MemoryInputs",
    "SftConfig",
    "SftError",
    "SftJob",
    "SftPlan",
    "build_tiny_checkpoint",
    "plan",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
