"""Run one supervised training: check the memory, make the run folder and the starting checkpoint, start the workers."""

from pathlib import Path
from typing import Any

from covt_runtime.engine.profiler import DEFAULT_STEPS
from covt_runtime.launch.workers import WorkerGroup, launch
from covt_runtime.metrics.progress import Progress
from covt_runtime.process_environment import Machine, is_main_process
from covt_runtime.run_folder import RunFolder, run_name
from covt_sft.planning.memory_check import check_memory
from covt_sft.planning.plan import SftPlan, plan
from covt_sft.planning.starting_checkpoint import (
    build_tiny_checkpoint,
    starting_checkpoint_folder,
    write_starting_checkpoint,
)
from covt_sft.sft_job import SftJob
from covt_sft.sft_recipe import SftConfig

__all__ = ["build_tiny_checkpoint", "plan", "train"]

TARGET = "covt_sft.training.loop:train_worker"


def train(
    config: SftConfig,
    planned: SftPlan,
    *,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerGroup | None = None,
    profile: Path | None = None,
    profile_steps: tuple[int, ...] = DEFAULT_STEPS,
) -> dict[str, Any]:
    """Train, and export the model.

    Args:
        config: the recipe.
        planned: what `plan` found for it.
        progress: where progress and notes are shown.
        resume: continue the run of the same name from its newest checkpoint.
        overwrite: replace a run of the same name.
        workers: running worker processes to use; None starts and ends its own.
        profile: folder for traces by torch's profiler; None traces nothing.
        profile_steps: numbers of the optimizer steps to trace, counted from 1.

    Returns:
        `{"run", "hf", "steps", "seconds"}`; empty on ranks other than 0 of another launcher.

    Raises:
        SftError: this machine can't hold the training.
        RunFolderError: the run exists already, or there is none to resume.
    """
    name = run_name(config.run.name, f"sft-{config.method}")
    if planned.inputs is not None:
        check_memory(config, planned.inputs, planned.model, Machine.here())
    folder = Path(config.run.out) / name
    model = starting_checkpoint_folder(planned.model, folder)
    stored = config.model_dump(mode="json") | {"resolved": {"model": str(model), "data": str(planned.data)}}
    # Other ranks wait for rank 0 to join, which happens only after the checkpoint is written.
    run = RunFolder(folder)
    if is_main_process():
        run = RunFolder.create(config.run.out, name, stored, resume=resume, overwrite=overwrite)
        write_starting_checkpoint(config, planned.model, planned.data, model, progress.note)
    job = SftJob(
        config=config,
        run=run.path,
        data=planned.data,
        model=model,
        stage1_steps=planned.stage1_steps,
        stage2_steps=planned.stage2_steps,
        resume=resume,
        profile=profile,
        profile_steps=profile_steps,
    )
    payload = job.model_dump(mode="json")
    if workers is not None:
        return workers.run(TARGET, payload, progress.handle)
    result = launch(
        TARGET,
        payload,
        ranks=config.run.ranks,
        log_dir=run.logs,
        on_event=progress.handle,
        collective_minutes=config.run.collective_minutes,
    )
    return result or {}
