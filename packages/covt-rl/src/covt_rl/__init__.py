"""GRPO on latent rollouts from a vLLM server: scoring, algorithms and the training loop.

Folders in their order: top modules < algorithms < scoring < rollouts < planning < updates < training. May not import
sft. Importing this package loads nothing heavy: each name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_rl.algorithms.advantage_registry import load_advantage
    from covt_rl.planning.memory_plan import MemoryPlan, plan_memory
    from covt_rl.planning.placement import Placement
    from covt_rl.rl_errors import RlError
    from covt_rl.rl_job import TrainJob
    from covt_rl.rl_recipe import RlConfig
    from covt_rl.rollouts.collect import Collector
    from covt_rl.rollouts.rollout_stream import RolloutStream
    from covt_rl.scoring.score_groups import ScoredGroup, build_rewards
    from covt_rl.training.train import RlPlan, plan, train

_HOMES = {
    "Collector": "covt_rl.rollouts.collect",
    "MemoryPlan": "covt_rl.planning.memory_plan",
    "Placement": "covt_rl.planning.placement",
    "RlConfig": "covt_rl.rl_recipe",
    "RlError": "covt_rl.rl_errors",
    "RlPlan": "covt_rl.training.train",
    "RolloutStream": "covt_rl.rollouts.rollout_stream",
    "ScoredGroup": "covt_rl.scoring.score_groups",
    "TrainJob": "covt_rl.rl_job",
    "build_rewards": "covt_rl.scoring.score_groups",
    "load_advantage": "covt_rl.algorithms.advantage_registry",
    "plan": "covt_rl.training.train",
    "plan_memory": "covt_rl.planning.memory_plan",
    "train": "covt_rl.training.train",
}

__all__ = [
    "Collector",
    "MemoryPlan",
    "Placement",
    "RlConfig",
    "RlError",
    "RlPlan",
    "RolloutStream",
    "ScoredGroup",
    "TrainJob",
    "build_rewards",
    "load_advantage",
    "plan",
    "plan_memory",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
