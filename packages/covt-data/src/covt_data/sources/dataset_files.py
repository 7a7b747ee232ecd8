"""Finds the files of a published dataset in a folder, or downloads them from the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from covt_data.data_errors import DataError, DataFileError
from covt_data.images.archives import is_archive
from covt_data.sources.source_types import RecordSource

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
SPLIT_NAMES = {"test": "test", "testmini": "test", "validation": "validation", "val": "validation", "dev": "validation"}
OTHER_KINDS = (".csv", ".tsv", ".xlsx", ".xls", ".gz", ".bz2", ".xz", ".zst", ".arrow", ".yaml", ".pkl")
SPLIT_ORDER = ("test", "validation")  # held-out rows first: a duplicate is dropped from training, not from them


def locate_dataset(source: RecordSource, path: str) -> Path:
    """Return the folder or file of a dataset. A hub id is downloaded.

    Raises:
        DataFileError: when the path does not exist and the hub does not provide it.
    """
    name = path or source.hub_id
    if not name:
        raise DataFileError(f"{source.name} needs a path", "give the folder or file with --source")
    local = Path(name).expanduser()
    if local.exists():
        return local
    if not HUB_ID.fullmatch(name):
        raise DataFileError(f"{name} does not exist", "give a folder, a file or a hub id as in owner/name")
    return _fetched(name, source.patterns)


def _fetched(hub_id: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    download: Callable[..., str] = import_module("huggingface_hub").snapshot_download  # its annotations are partial
    try:
        return Path(download(hub_id, repo_type="dataset", allow_patterns=list(patterns) or None))
    except LocalEntryNotFoundError:
        raise DataFileError(
            f"{hub_id} is neither a path here nor in the cache, and the hub cannot be reached",
            "fetch it where there is a network, and give the folder with --source",
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise DataFileError(
            f"{hub_id} cannot be fetched: {reason}", "check the id and the network, or give a folder with --source"
        ) from None


def find_record_files(path: Path, suffixes: tuple[str, ...], what: str) -> list[Path]:
    """Return the record files below a folder, sorted, or `path` itself if it is a file. Hidden folders are skipped.

    Raises:
        DataError: when `path` is a file of another kind.
        DataFileError: when there are no such files.
    """
    if path.is_file():
        _check_kind(path, suffixes)
        return [path]
    found = sorted(
        file
        for suffix in suffixes
        for file in path.rglob(f"*{suffix}")
        if not any(part.startswith(".") for part in file.relative_to(path).parts) and file.is_file()
    )
    if not found:
        raise DataFileError(f"{path} has no {' or '.join(suffixes)} files", f"the folder of {what} is expected")
    return found


def _check_kind(path: Path, suffixes: tuple[str, ...]) -> None:
    wanted = f"give {' or '.join(suffixes)}"
    if is_archive(path) or path.suffix.lower() in OTHER_KINDS:
        raise DataError(f"{path} is a {path.suffix} file", f"{wanted}, or a folder of such files")
    if path.suffix.lower() == ".json":
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if start.startswith(b"[") or start.partition(b"\n")[0].strip() == b"{":
            kind, query = ("array", "'.[]'") if start.startswith(b"[") else ("object over several lines", ".")
            raise DataError(
                f"{path} is one JSON {kind}, not an object per line",
                f"convert it with `jq -c {query} {path.name} > {path.stem}.jsonl`",
            )


def group_by_split(files: Sequence[Path], default: str = "train") -> dict[str, tuple[Path, ...]]:
    """Group files by the split in their names (`TEST.jsonl`, `train-00000.parquet`), held-out splits first."""
    found: dict[str, list[Path]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", file.stem.lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
        found.setdefault(split or ("train" if "train" in words else default), []).append(file)
    order = sorted(found, key=lambda name: (name not in SPLIT_ORDER, name))
    return {split: tuple(found[split]) for split in order}


def find_archives(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.iterdir() if is_archive(file) and file.is_file()))
