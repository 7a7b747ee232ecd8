"""The stages of a training, and where among them it stands. Importing this needs no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from covt_sft.sft_errors import SftError
from covt_sft.sft_job import SftJob
from covt_sft.sft_recipe import Stage1Section, Stage2Section


@dataclass(frozen=True)
class Stage:
    """One stage of the training."""

    name: str
    section: Stage1Section | Stage2Section
    steps: int
    """Most optimizer steps; the stage ends earlier when its `seconds` are up."""
    is_final: bool


def planned_stages(job: SftJob) -> list[Stage]:
    """The stages that have steps, in order.

    Raises:
        SftError: no stage has steps.
    """
    sections = [("stage1", job.config.stage1, job.stage1_steps), ("stage2", job.config.stage2, job.stage2_steps)]
    chosen = [section for section in sections if section[2]]
    if not chosen:
        raise SftError("neither stage has steps", "set stage1.steps or stage2.steps")
    return [Stage(*section, is_final=section is chosen[-1]) for section in chosen]


@dataclass
class Position:
    """Where a training stands; every checkpoint stores it.

    Where a stage ends is known only when it has ended, because its time may be up before its steps. So the boundary is
    carried along instead of being computed from the recipe.
    """

    stage: str
    """Name of the stage."""
    first: int = 0
    """Optimizer steps before this stage."""
    done: int = 0
    """Optimizer steps so far, over all stages."""
    seconds: float = 0.0
    """Wall time spent in this stage, over all processes that have trained it."""
    ended: bool = False
    """Whether this stage is over."""

    @classmethod
    def from_checkpoint(cls, extra: Mapping[str, Any], schedule: Mapping[str, int], stages: Sequence[Stage]) -> Self:
        """Restore the position that a checkpoint stores.

        Earlier checkpoints store only the stage's name. Such a stage began where the schedule did, and has ended where
        its steps are used up.

        Args:
            extra: the checkpoint's own entries.
            schedule: the engine's `schedule_state` after loading.
            stages: the recipe's stages.
        """
        if "position" in extra:
            return cls(**extra["position"])
        position = cls(extra["stage"], first=schedule["start"], done=schedule["step"])
        position.ended = any(stage.name == position.stage and position.steps >= stage.steps for stage in stages)
        return position

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint's JSON."""
        return asdict(self)

    @property
    def steps(self) -> int:
        """Optimizer steps in this stage."""
        return self.done - self.first

    def advance(self, stage: Stage, seconds: float) -> None:
        """Count an optimizer step of `stage`, of which `seconds` have passed in all; end it when either is used up."""
        self.done += 1
        self.seconds = seconds
        limit = stage.section.seconds
        self.ended = self.steps >= stage.steps or (limit is not None and seconds >= limit)

    def enter(self, stage: Stage) -> None:
        """Begin the next stage at the step that the last one ended at."""
        self.stage = stage.name
        self.first = self.done
        self.seconds = 0.0
        self.ended = False
