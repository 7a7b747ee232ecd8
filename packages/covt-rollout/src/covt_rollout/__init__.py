"""Latent rollouts from an unmodified vLLM: server, client, weight updates, branches and the vLLM plugin.

The folders' order, lowest first: vllm_plugin, server, client, weights, branches. A folder imports only lower ones;
`rollout_errors` and `endpoints` are below the server. Importing this package loads nothing heavy: each name below is
imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_rollout.branches.branch_points import BranchPoint, choose_foreign_latents, find_branch_point
    from covt_rollout.branches.continuations import continue_from
    from covt_rollout.branches.speculative_branches import SpanCountHistory, SpeculativeBranches
    from covt_rollout.client.blocking_client import BlockingClient
    from covt_rollout.client.completions import Completion
    from covt_rollout.client.rollout_client import RolloutClient
    from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling
    from covt_rollout.rollout_errors import (
        RolloutError,
        ServerError,
        ServerRefusedError,
        ServerUnreachableError,
        StaleWeightsError,
        WeightPushError,
    )
    from covt_rollout.server.replicas import run_replicas
    from covt_rollout.server.server_options import ServerOptions
    from covt_rollout.server.server_process import LatentServer
    from covt_rollout.server.watchdog import ServerWatchdog
    from covt_rollout.weights.weight_files import ServedNames
    from covt_rollout.weights.weight_sync import Publisher, PushReport, publish, push_weights

__all__ = [
    "BlockingClient",
    "BranchPoint",
    "Completion",
    "LatentInput",
    "LatentServer",
    "PromptRequest",
    "Publisher",
    "PushReport",
    "RolloutClient",
    "RolloutError",
    "Sampling",
    "ServedNames",
    "ServerError",
    "ServerOptions",
    "ServerRefusedError",
    "ServerUnreachableError",
    "ServerWatchdog",
    "SpanCountHistory",
    "SpeculativeBranches",
    "StaleWeightsError",
    "WeightPushError",
    "choose_foreign_latents",
    "continue_from",
    "find_branch_point",
    "publish",
    "push_weights",
    "run_replicas",
]

_MODULES = {
    "branches.branch_points": ("BranchPoint", "choose_foreign_latents", "find_branch_point"),
    "branches.continuations": ("continue_from",),
    "branches.speculative_branches": ("SpanCountHistory", "SpeculativeBranches"),
    "client.blocking_client": ("BlockingClient",),
    "client.completions": ("Completion",),
    "client.rollout_client": ("RolloutClient",),
    "client.rollout_requests": ("LatentInput", "PromptRequest", "Sampling"),
    "rollout_errors": (
        "RolloutError",
        "ServerError",
        "ServerRefusedError",
        "ServerUnreachableError",
        "StaleWeightsError",
        "WeightPushError",
    ),
    "server.replicas": ("run_replicas",),
    "server.server_options": ("ServerOptions",),
    "server.server_process": ("LatentServer",),
    "server.watchdog": ("ServerWatchdog",),
    "weights.weight_files": ("ServedNames",),
    "weights.weight_sync": ("Publisher", "PushReport", "publish", "push_weights"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
