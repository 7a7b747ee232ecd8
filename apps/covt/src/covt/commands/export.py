"""`covt export`: a sharded ZeRO-3 checkpoint → a stock Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def export(
    source: Annotated[
        Path | None, typer.Argument(metavar="RUN|CHECKPOINT", help="A run or one of its step_N; default: the newest.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write; default RUN/export.")] = None,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32; default: as the base model is stored.")] = "",
    base: Annotated[
        Path | None, typer.Option(help="The model the run was trained from, where it has moved since.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a training checkpoint into a stock Hugging Face folder.

    Weights (safetensors), config with the latent settings, tokenizer, processor, chat template, generation config,
    latent decoding for plain Transformers, and a model card. Needs neither a GPU nor the ranks that trained it, and
    memory for a few tensors only.
    """
    from covt.exporting import export_checkpoint

    run, checkpoint, folder = export_checkpoint(source, out, dtype=dtype, base=base)
    result = {"run": str(run), "checkpoint": str(checkpoint), "model": str(folder)}
    emit(result, as_json=as_json, text=f"{checkpoint} → {folder}\nserve it: covt serve {folder}")
