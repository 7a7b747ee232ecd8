"""What every training is built on: ZeRO-3, worker processes, checkpoints, metrics, run folders.

Folders in their order: top modules < metrics < launch < engine < checkpoints. Imports nothing else of this repository.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covt_runtime.checkpoints.checkpoint import CheckpointStore
    from covt_runtime.checkpoints.shard_files import consolidate
    from covt_runtime.engine.memory_estimate import MemoryEstimate, ModelShape, TrainingSettings, estimate_memory
    from covt_runtime.engine.optimizer_settings import OptimConfig, ZeroConfig
    from covt_runtime.engine.profiler import StepProfiler
    from covt_runtime.engine.zero_engine import StepResult, ZeroEngine
    from covt_runtime.launch.distributed import Worker
    from covt_runtime.launch.workers import WorkerGroup
    from covt_runtime.metrics.metric_log import MetricsLog
    from covt_runtime.metrics.progress import Progress
    from covt_runtime.run_folder import RunFolder, find_newest
    from covt_runtime.runtime_errors import (
        CheckpointError,
        ConfigError,
        LaunchError,
        RunFolderError,
        RuntimeUserError,
        WorkerUserError,
    )

_HOMES = {
    "CheckpointError": "covt_runtime.runtime_errors",
    "CheckpointStore": "covt_runtime.checkpoints.checkpoint",
    "ConfigError": "covt_runtime.runtime_errors",
    "LaunchError": "covt_runtime.runtime_errors",
    "MemoryEstimate": "covt_runtime.engine.memory_estimate",
    "MetricsLog": "covt_runtime.metrics.metric_log",
    "ModelShape": "covt_runtime.engine.memory_estimate",
    "OptimConfig": "covt_runtime.engine.optimizer_settings",
    "Progress": "covt_runtime.metrics.progress",
    "RunFolder": "covt_runtime.run_folder",
    "RunFolderError": "covt_runtime.runtime_errors",
    "RuntimeUserError": "covt_runtime.runtime_errors",
    "StepProfiler": "covt_runtime.engine.profiler",
    "StepResult": "covt_runtime.engine.zero_engine",
    "TrainingSettings": "covt_runtime.engine.memory_estimate",
    "Worker": "covt_runtime.launch.distributed",
    "WorkerGroup": "covt_runtime.launch.workers",
    "WorkerUserError": "covt_runtime.runtime_errors",
    "ZeroConfig": "covt_runtime.engine.optimizer_settings",
    "ZeroEngine": "covt_runtime.engine.zero_engine",
    "consolidate": "covt_runtime.checkpoints.shard_files",
    "estimate_memory": "covt_runtime.engine.memory_estimate",
    "find_newest": "covt_runtime.run_folder",
}

__all__ = [
    "CheckpointError",
    "CheckpointStore",
    "ConfigError",
    "LaunchError",
    "MemoryEstimate",
    "MetricsLog",
    "ModelShape",
    "OptimConfig",
    "Progress",
    "RunFolder",
    "RunFolderError",
    "RuntimeUserError",
    "StepProfiler",
    "StepResult",
    "TrainingSettings",
    "Worker",
    "WorkerGroup",
    "WorkerUserError",
    "ZeroConfig",
    "ZeroEngine",
    "consolidate",
    "estimate_memory",
    "find_newest",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that importing the package stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
