"""What a worker process of a reinforcement training receives, as JSON."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from covt_rl.rl_recipe import RlConfig
from covt_runtime.engine.profiler import DEFAULT_STEPS


class TrainJob(BaseModel):
    """One training for the workers: the recipe, and everything that was resolved before they started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: RlConfig
    run: Path
    """The run's folder."""
    data: Path
    """The prepared set."""
    model: Path
    """The starting checkpoint, with latent tokens."""
    base_url: str
    """Address of the server; several replicas are separated by commas."""
    steps: int
    """GRPO steps of the whole run."""
    resume: bool = False
    """Continue from the newest checkpoint of the run."""
    asleep_version: int | None = None
    """The weight version that the servers had before they were put to sleep; None while they are awake."""
    profile: Path | None = None
    """Folder for traces of `profile_steps`; None traces nothing."""
    profile_steps: tuple[int, ...] = DEFAULT_STEPS
    """Numbers of the GRPO steps to trace, counted from 1."""
