"""`covt sft`: supervised training, ILVR stage 1 and 2, and its plain and pause controls."""

from typing import Annotated

import typer

from covt.config import load
from covt.output import emit


def sft(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE] [a.b=c]...")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint (needs run.name=…).")] = False,
    dry_run: Annotated[bool, typer.Option(help="Validate and print the plan only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a latent model on interleaved samples: recipe `tiny` unless another is named."""
    from covt_runtime.progress import Progress
    from covt_sft.config import SftConfig
    from covt_sft.train import plan, train

    config = load(SftConfig, "sft", arguments or [])
    planned = plan(config)
    if dry_run:
        emit({"config": config.model_dump(mode="json"), "plan": planned.as_dict()}, as_json=as_json, text=str(planned))
        return
    with Progress() as progress:
        progress.note(str(planned))
        result = train(config, planned, resume=resume, progress=progress)
    if result:  # rank 0 speaks for all that another launcher started
        emit(result, as_json=as_json, text=f"model: {result['hf']}\nrun:   {result['run']}")
