"""`covt data`: prepare datasets, look at them, check them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from covt.error_lines import EXIT_RUNTIME, UsageError
from covt.output import emit, note
from covt.recipe_files import apply_overrides
from covt_data.rejects import REJECTED_NAME

app = typer.Typer(help="Prepare, inspect and check datasets.", no_args_is_help=True)

SOURCES = "comt, jsonl, trace, virl39k, vsp or zebra-cot."
PreparedPath = Annotated[Path, typer.Argument(metavar="SET", help="A prepared set's folder.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCES)] = "trace",
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options of the source, as in n_train=2000 seed=1.")
    ] = None,
    location: Annotated[str | None, typer.Option("--source", help="Folder, file or hub id to read.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write; default data/SOURCE.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that read files; by default one per core.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write a dataset as Parquet shards with the images inside, and its manifest.

    After an interruption, the same command resumes a set that is made from files.
    """
    from covt.tokens import token_counter
    from covt_data.ingest.prepare import find_source
    from covt_data.ingest.prepare import prepare as prepare_set
    from covt_runtime.metrics.progress import Progress

    target = out or Path("data") / source
    settings = apply_overrides({}, options or [])
    if location is not None:
        option = find_source(source).folder_option
        if option is None:
            raise UsageError(f"{source} is generated and reads no files", "leave out --source")
        settings[option] = location
    with Progress() as progress, progress.phase(f"prepare {source}", unit="row") as phase:

        def report(split: str, done: int, total: int) -> None:
            phase.total = total or None
            phase.update(done, part=split)

        manifest = prepare_set(
            source,
            target,
            options=settings,
            overwrite=overwrite,
            progress=report,
            count_tokens=token_counter(str(settings.get("tokenizer", ""))),
            processes=processes or len(os.sched_getaffinity(0)),
        )
    lines = [f"{target}: " + ", ".join(f"{split} {count.rows}" for split, count in manifest.counts.items())]
    lines += _count_lines(manifest)
    emit(manifest.model_dump(mode="json"), as_json=as_json, text="\n".join(lines))
    if manifest.rejected:
        _note_rejections(target / REJECTED_NAME)


def _note_rejections(log: Path) -> None:
    """Show on stderr the first records with bad golds, and the first of the other rejected ones."""
    from covt_data.ingest.rejection_report import summarize_rejections

    found = summarize_rejections(log)
    note("\n  ".join([f"{found.reasons.total()} rejected ({log}):", *found.lines]))


@app.command()
def inspect(
    path: PreparedPath,
    split: Annotated[str | None, typer.Option(help="Which split; default the first with rows to train on.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet PNG here.")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page of samples here.")] = None,
    rows: Annotated[int, typer.Option("-n", min=1, help="Rows of the sheet, and of each split on the page.")] = 24,
    as_json: JsonFlag = False,
) -> None:
    """Show what a prepared set holds: a table, a contact sheet, a page of samples."""
    from covt_data.inspect.contact_sheet import contact_sheet
    from covt_data.inspect.set_page import sample_page
    from covt_data.store.prepared_set import PreparedSet

    prepared = PreparedSet(path)
    if sheet is not None:
        chosen = split or ("train" if "train" in prepared.splits else prepared.splits[0])
        sheet.write_bytes(contact_sheet(prepared, chosen, rows))
        note(f"contact sheet: {sheet}")
    if page is not None:
        page.write_text(sample_page(prepared, splits=[split] if split else None, n=rows), encoding="utf-8")
        note(f"samples: {page}")
    lines = [f"{path}: {prepared.manifest.source}, made by `{prepared.manifest.command}`"]
    for name, count in prepared.manifest.counts.items():
        lines.append(f"  {name}: {count.rows} rows")
        lines += [f"    {category or 'no category'}: {number}" for category, number in count.categories.items()]
    lines += _count_lines(prepared.manifest)
    emit(prepared.manifest.model_dump(mode="json"), as_json=as_json, text="\n".join(lines))


def _count_lines(manifest: Any) -> list[str]:
    """What was rejected, filtered and converted, where anything was."""
    found = {name: getattr(manifest, name) for name in ("rejected", "filtered", "converted")}
    return [
        f"  {name}: " + ", ".join(f"{key} {n}" for key, n in counts.items()) for name, counts in found.items() if counts
    ]


@app.command()
def validate(
    path: PreparedPath,
    decode: Annotated[bool, typer.Option(help="Decode every image, which takes most of the time.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Re-check a prepared set: files, rows, images, golds, counts. Exit code 1 when something is wrong."""
    from covt_data.inspect.validate_set import validate as validate_set
    from covt_data.store.prepared_set import PreparedSet

    prepared = PreparedSet(path)
    problems = validate_set(prepared, decode=decode)
    rows = sum(count.rows for count in prepared.manifest.counts.values())
    lines = [f"{path}: {rows} rows, {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"]
    lines += [f"  {problem.where}: {problem.what}" for problem in problems]
    data = {"rows": rows, "problems": [problem.to_dict() for problem in problems]}
    emit(data, as_json=as_json, text="\n".join(lines))
    if problems:
        raise typer.Exit(EXIT_RUNTIME)


@app.command()
def stats(
    path: PreparedPath,
    split: Annotated[str | None, typer.Option(help="Which split; default all.")] = None,
    tokenizer: Annotated[str, typer.Option(help="Folder or hub id of a model, to count tokens with.")] = "",
    min_pixels: Annotated[int, typer.Option(help="Least pixels of an image, for visual tokens.")] = 56 * 56,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of an image, for visual tokens.")] = 28 * 28 * 1280,
    as_json: JsonFlag = False,
) -> None:
    """Lengths, visual tokens, images, categories, graders and pass rates of a prepared set."""
    from covt.tokens import token_counter
    from covt_data.images.pixel_limits import PixelLimits
    from covt_data.inspect.set_statistics import split_stats, stats_table
    from covt_data.store.prepared_set import PreparedSet

    prepared, limits, counter = PreparedSet(path), PixelLimits(min_pixels, max_pixels), token_counter(tokenizer)
    splits = [split] if split else prepared.splits
    found = {name: split_stats(prepared, name, count_tokens=counter, limits=limits) for name in splits}
    text = "\n\n".join(f"{name}: {data['rows']} rows\n{stats_table(data)}" for name, data in found.items())
    emit(found, as_json=as_json, text=text)


@app.command()
def contamination(
    trained: Annotated[Path, typer.Argument(metavar="TRAIN", help="The prepared set that is trained on.")],
    tested: Annotated[
        Path, typer.Argument(metavar="TEST", help="The prepared set that is tested on; may be the same.")
    ],
    split: Annotated[list[str] | None, typer.Option(help="Splits of the first set; default all.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a question occurs in both.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Find rows of one set that occur in another: the same question, the same image, an image that looks alike."""
    from covt_data.inspect.contamination import KINDS
    from covt_data.inspect.contamination import contamination as compare
    from covt_data.store.prepared_set import PreparedSet

    found = compare(PreparedSet(trained), PreparedSet(tested), splits=split)
    lines = [
        f"{found['rows']} rows against {found['against']}: " + ", ".join(f"{kind} {found[kind]}" for kind in KINDS)
    ]
    lines += [f"  {entry['kind']}: {entry['row']} is {entry['found']}" for entry in found["examples"]]
    emit(found, as_json=as_json, text="\n".join(lines))
    if strict and found["same_question"]:
        raise typer.Exit(EXIT_RUNTIME)
