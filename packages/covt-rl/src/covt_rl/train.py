"""Run one GRPO training: check the plan, start a server where none is given, hand over to the workers."""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from covt_data.store import PreparedSet
from covt_model.config import LatentConfig
from covt_rl.config import RlConfig
from covt_rl.errors import RolloutError
from covt_rl.scoring import build_rewards
from covt_rl.serving.options import ServerOptions
from covt_rl.serving.process import LatentServer
from covt_rl.serving.watch import Watch
from covt_runtime.distributed import launched_from_outside
from covt_runtime.launch import WorkerGroup
from covt_runtime.progress import Progress
from covt_runtime.run import RunFolder, newest

TARGET = "covt_rl.worker:train_worker"


@dataclass(frozen=True)
class RlPlan:
    """Resolved inputs and sizes of one training."""

    data: Path
    model: Path
    prompts: int
    steps: int
    rewards: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts of {self.data}, model {self.model}, {self.steps} steps, "
            f"rewards {', '.join(self.rewards)}"
        )


def plan(config: RlConfig) -> RlPlan:
    """Find the data and the model, check the rewards, count the steps.

    Raises:
        RolloutError: a split that doesn't exist or has too few prompts.
        RewardError: an unknown reward.
    """
    data = Path(config.data.path) if config.data.path else newest(Path("data"), "data")
    model = Path(config.model.path) if config.model.path else newest(config.run.out, "hf", section="stage1")
    prepared = PreparedSet(data)
    if config.data.split not in prepared.splits:
        raise RolloutError(
            f"{data} has no split {config.data.split!r}", f"set data.split to one of {', '.join(prepared.splits)}"
        )
    rewards = build_rewards(config.rewards, config.prompt, LatentConfig.read(model))
    count = min(prepared.count(config.data.split), config.data.limit or prepared.count(config.data.split))
    if count < config.rollout.prompts:
        raise RolloutError(f"rollout.prompts = {config.rollout.prompts}, the set has {count}", "use fewer a step")
    steps = config.algorithm.steps or count // config.rollout.prompts
    return RlPlan(data, model, count, steps, tuple(reward.name for reward in rewards))


def train(
    config: RlConfig,
    planned: RlPlan,
    *,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Train and return `{"run", "hf", "steps", "seconds"}`.

    `overwrite` replaces a run of the same name. `workers` are running worker processes to use; without them, this
    starts and ends its own.
    """
    if launched_from_outside():
        raise RolloutError("covt rl was started as a rank of another launcher", "run it directly: it starts its ranks")
    name = config.run.name or f"rl-{time.strftime('%Y%m%d-%H%M%S')}"
    stored = config.model_dump(mode="json") | {"resolved": {"model": str(planned.model), "data": str(planned.data)}}
    run = RunFolder.create(config.run.out, name, stored, resume=resume, overwrite=overwrite)
    with ExitStack() as stack:
        if workers is None:
            workers = stack.enter_context(WorkerGroup(config.run.ranks, log_dir=run.logs))
        base_url = config.rollout.base_url
        if not base_url:
            server = stack.enter_context(start_server(planned.model, run, progress))
            stack.enter_context(Watch(server, on_note=progress.note))
            base_url = server.url
        payload = {
            "config": config.model_dump(mode="json"),
            "run": str(run.path),
            "data": str(planned.data),
            "model": str(planned.model),
            "base_url": base_url,
            "steps": planned.steps,
            "resume": resume,
        }
        return workers.run(TARGET, payload, progress.handle)


def start_server(model: Path, run: RunFolder, progress: Progress) -> LatentServer:
    """A rollout server for the run; its log lies in the run's folder."""
    with progress.phase("start vLLM server") as phase:
        return LatentServer.start(
            model,
            log_path=run.logs / "server.log",
            options=ServerOptions(),
            on_progress=lambda stage, seconds: phase.update(seconds, stage=stage),
        )
