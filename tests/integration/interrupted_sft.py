"""A supervised training that counts time in optimizer steps and kills its own process at a named moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zero_jobs import JOBS

from covt_sft.batches.sample_source import StepRows
from covt_sft.sft_job import SftJob
from covt_sft.training.loop import Trainer

TAKEN = 3
"""Steps of stage 1, however it ends."""
ENDED = ("steps", "seconds")
MOMENT = "COVT_TEST_MOMENT"
MOMENTS = (
    "last step of stage 1 begun",
    "boundary checkpoint half written",
    "boundary checkpoint complete",
    "stage 1 half exported",
    "stage 1 exported",
    "second step of stage 2 begun",
    "checkpoint in stage 2 complete",
    "final checkpoint complete",
    "model half exported",
)


def environment(moment: str | None) -> dict[str, str]:
    """Environment of workers that are killed at `moment`, or never."""
    return JOBS | ({} if moment is None else {MOMENT: moment})


def train_interrupted(payload: dict[str, Any], worker: Any) -> dict[str, Any]:
    """In place of `covt_sft.training.loop.train_worker`."""
    trainer = InterruptedTrainer(SftJob.model_validate(payload), worker)
    try:
        return trainer.run()
    finally:
        trainer.engine.close()


class InterruptedTrainer(Trainer):
    """Each moment is reached once; a half-written file is left as a kill leaves it."""

    def __init__(self, job: SftJob, worker: Any) -> None:
        super().__init__(job, worker)
        self.steps_here = 0
        self.clock = lambda: float(self.steps_here)
        write_state = self.store._write_state

        def write(folder: Path, step: int, *arguments: Any) -> None:
            if step == TAKEN:
                self.reach("boundary checkpoint half written")
            write_state(folder, step, *arguments)

        self.store._write_state = write  # pyright: ignore[reportAttributeAccessIssue]

    def reach(self, moment: str) -> None:
        if os.environ.get(MOMENT) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def deal_rows(self, number: int) -> StepRows:
        self.steps_here += 1
        begun = {TAKEN - 1: "last step of stage 1 begun", TAKEN + 1: "second step of stage 2 begun"}
        self.reach(begun.get(number, ""))
        return super().deal_rows(number)

    def save(self, position: Any, *, best: bool) -> None:
        super().save(position, best=best)
        complete = {
            TAKEN: "boundary checkpoint complete",
            TAKEN + 1: "checkpoint in stage 2 complete",
            TAKEN + 3: "final checkpoint complete",
        }
        self.reach(complete.get(position.done, ""))

    def export(self, out: Path) -> None:
        stage = "model" if out == self.folder.hf else "stage 1"
        gathered = self.engine.gathered_named_parameters

        def half() -> Iterator[Any]:
            for number, named in enumerate(gathered()):
                if number == 3:
                    self.reach(f"{stage} half exported")
                yield named

        self.engine.gathered_named_parameters = half  # pyright: ignore[reportAttributeAccessIssue]
        super().export(out)
        self.engine.gathered_named_parameters = gathered
        self.reach(f"{stage} exported")
