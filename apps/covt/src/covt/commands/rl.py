"""`covt rl`: GRPO on rollouts from a vLLM server."""

from typing import Annotated

import typer

from covt.config import load
from covt.output import emit


def rl(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [a.b=c]...")] = None,
    rewards: Annotated[str | None, typer.Option(help="Names with optional weights: format,accuracy=1.0,…")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint (needs run.name=…).")] = False,
    dry_run: Annotated[bool, typer.Option(help="Validate and print the plan only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train with group-relative rewards, 8 rollouts a prompt: recipe `tiny` unless another is named."""
    from covt_rl.config import RlConfig
    from covt_rl.train import plan, train
    from covt_runtime.progress import Progress

    overrides = list(arguments or [])
    if rewards is not None:
        overrides.append(f'rewards.use="{rewards}"')
    config = load(RlConfig, "rl", overrides)
    planned = plan(config)
    if dry_run:
        emit(
            {"config": config.model_dump(mode="json"), "plan": planned.as_dict()},
            as_json=as_json,
            text=planned.details(),
        )
        return
    with Progress() as progress:
        progress.note(str(planned))
        result = train(config, planned, resume=resume, progress=progress)
    emit(result, as_json=as_json, text=f"model: {result['hf']}\nrun:   {result['run']}")
