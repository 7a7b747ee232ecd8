"""Run one supervised training: prepare the run folder and the starting checkpoint, then hand over to the workers."""

from pathlib import Path
from typing import Any

from covt_runtime.launch.workers import WorkerGroup, launch
from covt_runtime.metrics.progress import Progress
from covt_runtime.process_environment import Machine, is_main_process
from covt_runtime.run_folder import RunFolder, run_name
from covt_sft.memory_check import check_memory
from covt_sft.plan import SftPlan, plan
from covt_sft.sft_recipe import SftConfig
from covt_sft.start import build_tiny_start, make_start, start_folder

__all__ = ["build_tiny_start", "plan", "train"]

TARGET = "covt_sft.loop:train_worker"


def train(
    config: SftConfig,
    planned: SftPlan,
    *,
    progress: Progress,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerGroup | None = None,
) -> dict[str, Any]:
    """Train and return `{"run", "hf", "steps", "seconds"}`, empty on ranks other than 0 of another launcher.

    `overwrite` replaces a run of the same name. `workers` are running worker processes to use; without them, this
    starts and ends its own.
    """
    name = run_name(config.run.name, f"sft-{config.method}")
    if planned.memory is not None:
        check_memory(planned.memory, planned.model, Machine.here(), planned.ranks)
    folder = Path(config.run.out) / name
    model = start_folder(planned.model, folder)
    stored = config.model_dump(mode="json") | {"resolved": {"model": str(model), "data": str(planned.data)}}
    # Rank 0 joins the others only when what they need is there.
    run = RunFolder(folder)
    if is_main_process():
        run = RunFolder.create(config.run.out, name, stored, resume=resume, overwrite=overwrite)
        make_start(config, planned.model, planned.data, model, progress.note)
    payload = {
        "config": config.model_dump(mode="json"),
        "run": str(run.path),
        "data": str(planned.data),
        "model": str(model),
        "steps": [planned.stage1_steps, planned.stage2_steps],
        "resume": resume,
    }
    if workers is not None:
        return workers.run(TARGET, payload, progress.handle)
    return launch(TARGET, payload, ranks=config.run.ranks, log_dir=run.logs, on_event=progress.handle) or {}
