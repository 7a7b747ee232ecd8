"""`covt eval`: accuracy of a model on a prepared set, with its latents kept or ablated."""

from pathlib import Path
from typing import Annotated

import typer

from covt.output import emit


def evaluate(
    model: Annotated[Path, typer.Argument(help="A latent checkpoint folder.")],
    data: Annotated[Path, typer.Argument(help="A prepared set.")],
    modes: Annotated[str, typer.Option(help="Latent modes: keep,zeros,noise,shuffle,drop_latents,drop_span.")] = "keep",
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    rows: Annotated[int | None, typer.Option(help="Rows to judge; all without it.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of noise and shuffling.")] = 0,
    base_url: Annotated[str, typer.Option(help="A running `covt serve`; one is started without it.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the per-row JSONL files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Answer every row greedily through a vLLM server and report accuracy with 95 % intervals."""
    from covt.evaluation import evaluate_checkpoint
    from covt_runtime.progress import Progress

    with Progress() as progress:
        figures = evaluate_checkpoint(
            model,
            data,
            [mode.strip() for mode in modes.split(",")],
            split=split,
            limit=rows,
            max_tokens=max_tokens,
            seed=seed,
            base_url=base_url,
            out=out,
            progress=progress,
        )
    lines = [f"{mode:<13} {one['value']:6.1%}  [{one['low']:.1%}, {one['high']:.1%}]" for mode, one in figures.items()]
    emit(figures, as_json=as_json, text="\n".join(lines))
