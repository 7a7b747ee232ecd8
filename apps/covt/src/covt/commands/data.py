"""`covt data`: prepare and look at data sets."""

from pathlib import Path
from typing import Annotated

import typer

from covt.config import apply_overrides
from covt.output import emit, note

app = typer.Typer(help="Prepare and inspect data sets.", no_args_is_help=True)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="trace or vsp.")] = "trace",
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of the source, as in n_train=2000 seed=1.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--source", help="Folder of published files to read.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; default data/<source>.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write a data set as Parquet shards with the pictures inside, and its manifest."""
    from covt_data.prepare import prepare as prepare_set
    from covt_runtime.progress import Progress

    target = out or Path("data") / source
    settings = apply_overrides({}, options or [])
    if folder is not None:
        settings["maps"] = str(folder)
    with Progress() as progress, progress.phase(f"prepare {source}", unit="row") as phase:
        manifest = prepare_set(source, target, options=settings, overwrite=overwrite, progress=phase.part)
    counts = ", ".join(f"{split} {count.rows}" for split, count in manifest.counts.items())
    emit(manifest.model_dump(mode="json"), as_json=as_json, text=f"{target}: {counts}")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A prepared set.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "train",
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet PNG here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show what a prepared set holds."""
    from covt_data.inspect import contact_sheet
    from covt_data.store import PreparedSet

    prepared = PreparedSet(path)
    if sheet is not None:
        sheet.write_bytes(contact_sheet(prepared, split, 24))
        note(f"contact sheet: {sheet}")
    lines = [f"{path}: {prepared.manifest.source}"]
    lines += [f"  {name}: {prepared.count(name)} rows" for name in prepared.splits]
    emit(prepared.manifest.model_dump(mode="json"), as_json=as_json, text="\n".join(lines))
