"""What a worker process of a supervised training receives, as JSON. Importing this needs no torch."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from covt_runtime.engine.profiler import DEFAULT_STEPS
from covt_sft.sft_recipe import SftConfig


class SftJob(BaseModel):
    """One training for the workers: the recipe, and everything that was resolved before they started."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: SftConfig
    run: Path
    """The run's folder."""
    data: Path
    """The prepared set."""
    model: Path
    """The starting checkpoint, with latent tokens."""
    stage1_steps: int
    """Optimizer steps of stage 1; 0 skips it."""
    stage2_steps: int
    """Optimizer steps of stage 2; 0 skips it."""
    resume: bool = False
    """Continue from the newest checkpoint of the run."""
    profile: Path | None = None
    """Folder for traces of `profile_steps`; None traces nothing."""
    profile_steps: tuple[int, ...] = DEFAULT_STEPS
    """Numbers of the optimizer steps to trace, counted from 1 over both stages."""
