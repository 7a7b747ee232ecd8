"""`covt export`: a sharded ZeRO-3 checkpoint → a stock Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def export(
    source: Annotated[
        Path | None, typer.Argument(metavar="[RUN|CHECKPOINT]", help="A run or one of its step_N; default: the newest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; default RUN/export.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write weights, config with latent settings, tokenizer, processor and model card, ready for `from_pretrained`."""
    from covt.exporting import export_checkpoint

    run, checkpoint, folder = export_checkpoint(source, out)
    result = {"run": str(run), "checkpoint": str(checkpoint), "model": str(folder)}
    emit(result, as_json=as_json, text=f"{checkpoint} → {folder}\nserve it: covt serve {folder}")
