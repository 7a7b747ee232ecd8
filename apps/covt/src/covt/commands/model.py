"""`covt model build`: a vision-language model from a text checkpoint and a fresh vision tower."""

from pathlib import Path
from typing import Annotated

import typer

from covt.error_lines import UsageError
from covt.output import emit

app = typer.Typer(help="Make models to start a training from.", no_args_is_help=True)

CELL = 28
"""Side in pixels of what one visual token sees."""
SAMPLE_ROWS, SAMPLE_CELLS = 64, 1024
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


@app.callback()
def group() -> None:
    """Make models to start a training from."""


@app.command("build")
def build(
    text: Annotated[
        str, typer.Option(help="A Hugging Face folder, a GGUF file, or smollm2: the packaged SmolLM2-135M-Instruct.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    data: Annotated[
        Path | None, typer.Option(help="A prepared set, whose images scale the vision tower; default: random images.")
    ] = None,
    vision_depth: Annotated[int, typer.Option(min=1, help="Blocks of the vision tower.")] = 1,
    vision_hidden: Annotated[int, typer.Option(min=64, help="Its width, a multiple of 64.")] = 256,
    vision_window: Annotated[int, typer.Option(min=28, help="Side of its windows in pixels, a multiple of 28.")] = 28,
    min_pixels: Annotated[int, typer.Option(min=28 * 28, help="Smaller images are enlarged.")] = 28 * 28,
    max_pixels: Annotated[int, typer.Option(min=28 * 28, help="Larger images are reduced.")] = 1280 * 28 * 28,
    latent_size: Annotated[int, typer.Option(min=1, help="Latents per segment.")] = 8,
    head: Annotated[str, typer.Option(help="Head of the feedback rule.")] = "identity",
    normalize: Annotated[str, typer.Option(help="How a hidden state is normalized before it is fed back.")] = "rms",
    dtype: Annotated[str, typer.Option(help="bf16 or fp32; default: as the text model is stored.")] = "",
    seed: Annotated[int, typer.Option(help="Of the vision tower and the new tokens' rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Build a vision-language model from a text model and a fresh vision tower.

    Text keeps the text model's logits, tokenizer and chat template. The vision tower is random: choose its size by what
    the images need, since training leaves it as it is.
    """
    if dtype and dtype not in DTYPES:
        raise UsageError(f"--dtype is {dtype!r}", f"use {' or '.join(DTYPES)}")
    if vision_hidden % 64:
        raise UsageError(f"--vision-hidden is {vision_hidden}", "use a multiple of 64")
    if vision_window % 28:
        raise UsageError(f"--vision-window is {vision_window}", "use a multiple of 28")
    if min_pixels > max_pixels:
        raise UsageError(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}", "lower --min-pixels")
    import torch

    from covt_model.checkpoints.build_checkpoint import build_checkpoint
    from covt_model.families.family import VisionSizes

    build_checkpoint(
        text,
        out,
        vision=VisionSizes(vision_depth, vision_hidden, vision_window),
        images=_sample_images(data, of_cells=vision_window == CELL) if data else (),
        pixels=(min_pixels, max_pixels),
        latent_size=latent_size,
        head=head,
        normalize=normalize,
        dtype=getattr(torch, DTYPES[dtype]) if dtype else None,
        seed=seed,
    )
    emit({"model": str(out)}, as_json=as_json, text=f"{text} → {out}\ntrain it: covt sft tiny model.path={out}")


def _sample_images(data: Path, *, of_cells: bool) -> list:
    """Images and helper images of the first rows of a prepared set, uint8 [3, H, W] each.

    Where the tower sees one cell at a time, its different cells are returned instead, up to `SAMPLE_CELLS`: helper
    images mark few cells, and latents stand for those.
    """
    from covt_data.store.prepared_set import PreparedSet
    from covt_model.checkpoints.tiny_checkpoint import distinct_cells
    from covt_model.encoding.row_images import decode

    prepared = PreparedSet(data)
    rows = list(prepared.rows("train" if "train" in prepared.splits else prepared.splits[0], SAMPLE_ROWS))
    found = [image for row in rows for image in (*row.images, *(i for step in row.steps for i in step.images or ()))]
    images = [decode(data) for data in dict.fromkeys(image.bytes for image in found)]
    if not of_cells:
        return images
    cells = distinct_cells(images)
    return cells[:: -(-len(cells) // SAMPLE_CELLS)]
