"""`covt sft`: supervised training, ILVR stage 1 and 2, and its plain and pause controls."""

from typing import Annotated

import typer

from covt.output import emit
from covt.recipe_files import load, recipe_help


def sft(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="RECIPE KEY=VALUE", help=recipe_help("sft"))] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the run's last checkpoint; needs run.name=NAME.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate and print the plan only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Supervised training of a latent model: ILVR stages 1 and 2.

    Starts its own processes, one a GPU or two on a CPU; under torchrun, deepspeed or srun it is one of theirs.
    """
    from covt_runtime.metrics.progress import Progress
    from covt_runtime.process_environment import is_main_process
    from covt_sft.sft_recipe import SftConfig
    from covt_sft.training.train import plan, train

    config = load(SftConfig, "sft", arguments or [])
    planned = plan(config)
    if dry_run:
        if is_main_process():
            shown = {"config": config.model_dump(mode="json"), "plan": planned.as_dict()}
            emit(shown, as_json=as_json, text=planned.details())
        return
    with Progress(quiet=not is_main_process()) as progress:
        progress.note(str(planned))
        result = train(config, planned, resume=resume, progress=progress)
    if result:  # rank 0 speaks for all that another launcher started
        emit(result, as_json=as_json, text=f"model: {result['hf']}\nrun:   {result['run']}")
