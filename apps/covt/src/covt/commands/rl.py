"""`covt rl`: GRPO on rollouts from a vLLM server."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit
from covt.recipe_files import load, parse_steps, recipe_help


def rl(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="RECIPE KEY=VALUE", help=recipe_help("rl"))] = None,
    rewards: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="With optional weights, as in format,accuracy=1.0,necessity=0.5."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the run's last checkpoint; needs run.name=NAME.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a torch profiler trace per rank and chosen step here.")
    ] = None,
    profile_steps: Annotated[
        str, typer.Option(metavar="STEPS", help="GRPO steps to trace, counted from 1, as in 2,3.")
    ] = "2,3",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate and print the plan only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """GRPO on rollouts from a vLLM server, latents included.

    Starts the server and one process per GPU, or two on a CPU. Under torchrun, deepspeed or srun this
    process is one of theirs and rank 0 starts the server. Takes the newest model of covt sft where none is named.
    """
    from covt_rl.rl_recipe import RlConfig
    from covt_rl.training.train import plan, train
    from covt_runtime.metrics.progress import Progress
    from covt_runtime.process_environment import is_main_process

    overrides = list(arguments or [])
    if rewards is not None:
        overrides.append(f'rewards.use="{rewards}"')
    config = load(RlConfig, "rl", overrides)
    steps = parse_steps(profile_steps)
    planned = plan(config)
    if dry_run:
        if is_main_process():
            emit(
                {"config": config.model_dump(mode="json"), "plan": planned.as_dict()},
                as_json=as_json,
                text=planned.details(),
            )
        return
    with Progress(quiet=not is_main_process()) as progress:
        progress.note(str(planned))
        result = train(config, planned, resume=resume, progress=progress, profile=profile, profile_steps=steps)
    if result:  # only rank 0 returns a result under another launcher
        emit(result, as_json=as_json, text=f"model: {result['hf']}\nrun:   {result['run']}")
