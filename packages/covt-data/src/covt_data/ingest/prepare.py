"""Makes a prepared set from a source: `prepare("trace", Path("data/trace"), options={"n_train": 4000})`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from covt_data.data_errors import DataError, DataFileError
from covt_data.ingest.filters import CountTokens
from covt_data.ingest.fork_server import start_fork_server
from covt_data.records.field_values import as_list
from covt_data.schema import Row
from covt_data.sources import SOURCES, RecordSource, Source, SourceOptions, load_source
from covt_data.sources.source_types import FileOptions
from covt_data.store.manifest import MANIFEST_NAME, FileHash, Manifest, SplitCount
from covt_data.store.prepared_set import PreparedSet, disk_errors, move_into_place, write_aside, write_split

Progress = Callable[[str, int, int], None]
"""Called with (split, rows or records done, total or 0 when unknown)."""

ROWS_PER_REPORT = 250  # rows


def prepare(
    source: str,
    out: Path,
    *,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    count_tokens: CountTokens | None = None,
    processes: int = 1,
) -> Manifest:
    """Write the set of `source` to the folder `out` and return its manifest.

    The same options give byte-identical files. An interrupted generated set leaves nothing behind. An interrupted set
    made from files leaves a work folder beside `out`, and the same call resumes from it.

    Args:
        source: a name in `covt_data.sources.SOURCES`.
        out: the folder to write. If it already holds the set of the same command, it is returned unchanged.
        options: options of the source; missing ones take their defaults.
        overwrite: replace another set in `out` instead of raising.
        progress: called while rows are written.
        count_tokens: counts the tokens of a text; required when the options filter by tokens.
        processes: number of processes that convert records. More than one requires that the calling script guards
            its main code with `if __name__ == "__main__"`.

    Raises:
        DataError: for an unknown source, an invalid option, or too many rejected records.
        DataFileError: for missing, damaged or conflicting files.
    """
    spec = find_source(source)
    chosen = parse_options(spec, options or {})
    out = Path(out)
    if isinstance(spec, RecordSource):
        return _from_files(spec, chosen, out, overwrite, progress, count_tokens, processes)
    manifest = Manifest(
        source=spec.name,
        version=spec.version,
        command=command_line(spec, chosen),
        options=chosen.model_dump(mode="json"),
        inputs=spec.inputs(chosen),
    )
    existing = _reusable(out, manifest, overwrite)
    if existing:
        return existing
    with write_aside(out) as aside:
        counts: dict[str, SplitCount] = {}
        files: dict[str, FileHash] = {}
        for split in spec.splits(chosen):
            rows = _reported(split.rows, split.name, split.count, progress)
            counts[split.name], hashes = write_split(rows, aside / split.name)
            files |= {f"{split.name}/{name}": value for name, value in hashes.items()}
        manifest = manifest.model_copy(update={"counts": counts, "files": files})
        manifest.write(aside)
    return manifest


def _from_files(
    spec: RecordSource,
    options: FileOptions,
    out: Path,
    overwrite: bool,
    progress: Progress | None,
    count_tokens: CountTokens | None,
    processes: int,
) -> Manifest:
    """Prepare the set of a source that reads files."""
    if options.tokenizer and count_tokens is None:
        raise DataError("the options name a tokenizer, but none was given", "pass count_tokens to prepare")
    if processes > 1:
        start_fork_server()
    from covt_data.ingest.prepare_records import Preparation, file_hashes
    from covt_data.ingest.work_folder import WorkFolder
    from covt_data.sources.dataset_files import locate_dataset

    root = locate_dataset(spec, options.path)
    published = spec.find(root, options)
    manifest = Manifest(
        source=spec.name,
        version=spec.version,
        command=command_line(spec, options),
        options=options.model_dump(mode="json"),
        inputs=file_hashes(published, root),
    )
    work = WorkFolder(out)
    existing = _reusable(out, manifest, overwrite)
    if existing:
        work.remove_leftover()
        return existing
    with disk_errors(out), work.locked():
        job = Preparation(
            spec,
            options,
            published,
            work,
            count_tokens=count_tokens if options.tokenizer else None,
            report=progress,
            processes=processes,
        )
        manifest = job.run(manifest)
        manifest.write(work.set)
        move_into_place(work.set, out)
        work.remove()
    return manifest


def _reusable(out: Path, manifest: Manifest, overwrite: bool) -> Manifest | None:
    """Return the manifest in `out` when it describes the requested set, or None when `out` may be written."""
    existing = _existing(out)
    if existing is None or overwrite:
        return None
    # A set made before an option existed counts as made with the option's default.
    options = {name: value for name, value in manifest.options.items() if name not in existing.options}
    defaults = find_source(manifest.source).options().model_dump(mode="json")
    known = existing.model_copy(update={"options": existing.options | {name: defaults[name] for name in options}})
    if known.same_origin(manifest):
        PreparedSet(out).check_sizes()
        return existing
    raise DataFileError(
        f"{out} holds another set, made by `{existing.command}`",
        "choose another folder, or replace it with --overwrite",
    )


def find_source(name: str) -> Source | RecordSource:
    """Return the source of that name.

    Raises:
        DataError: listing the sources and suggesting the closest name.
    """
    if name not in SOURCES:
        raise DataError(f"unknown source {name!r}{_nearest(name, SOURCES)}", f"choose one of {', '.join(SOURCES)}")
    return load_source(name)


def parse_options(spec: Source | RecordSource, options: Mapping[str, Any]) -> Any:
    """Validate the options of a source.

    Raises:
        DataError: for an unknown key (suggesting the closest one) or an invalid value.
    """
    known = list(spec.options.model_fields)
    for key in options:
        if key not in known:
            raise DataError(
                f"{spec.name} has no option {key!r}{_nearest(key, known)}", f"options are {', '.join(known)}"
            )
    try:
        return spec.options.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        where = f"option {field} = {first['input']!r}" if field else "options"
        raise DataError(f"{spec.name}, {where}: {message}", "see docs/data.md for the options") from None


def command_line(spec: Source | RecordSource, options: SourceOptions) -> str:
    """Return the command that makes the set again, with the options that differ from their defaults."""
    words = ["covt", "data", "prepare", spec.name]
    defaults = spec.options()
    for key, value in options.model_dump(mode="json").items():
        if getattr(options, key) != getattr(defaults, key):
            items = as_list(value)
            text = str(value) if items is None else ",".join(map(str, items))
            words.append(f"{key}={text}")
    return shlex.join(words)


def _existing(out: Path) -> Manifest | None:
    """Return the manifest of the set in `out`, or None when it is empty. Other folders are never replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST_NAME).is_file():
        raise DataFileError(f"{out} exists and is not a prepared set", "choose another folder")
    return Manifest.read(out)


def _reported(rows: Iterable[Row], split: str, total: int, progress: Progress | None) -> Iterator[Row]:
    for done, row in enumerate(rows, 1):
        yield row
        if progress and (done % ROWS_PER_REPORT == 0 or done == total):
            progress(split, done, total)


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
