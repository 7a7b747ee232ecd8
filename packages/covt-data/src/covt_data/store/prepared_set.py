"""Prepared sets on disk: `<out>/<split>/part-NNNNN.parquet` with the images inside, and `manifest.json`.

Nothing is ever half-written: shards go to a folder beside the target, which is renamed when everything is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from covt_data.data_errors import DataError, DataFileError
from covt_data.images.pixel_limits import PixelLimits, fit_row
from covt_data.schema import Row, parse_row
from covt_data.store.arrow_rows import build_table
from covt_data.store.manifest import FileHash, Manifest, SplitCount

ROWS_PER_SHARD = 4000
READ_BATCH = 64  # rows decoded at a time


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Errors of the disk become `DataFileError` about `target`."""
    try:
        yield
    except DataFileError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or choose another folder" if full else "choose a folder that can be written"
        raise DataFileError(
            f"cannot write {target}: {os.strerror(error.errno) if error.errno else error}", remedy
        ) from error


def move_into_place(made: Path, target: Path) -> None:
    """Rename a complete folder to `target`; what was there goes, and comes back if the renaming fails."""
    replaced = target.with_name(f".{target.name}.{os.getpid()}.replaced")
    try:
        if target.exists():
            target.rename(replaced)
        made.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def write_aside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends, and is removed when it fails.

    An existing `target` is replaced. Errors of the disk become `DataFileError`.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with disk_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(target)
            aside.mkdir()
            yield aside
            move_into_place(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Partial folders of processes that were killed before they could clean up."""
    for folder in target.parent.glob(f".{target.name}.*.partial"):
        owner = folder.name.split(".")[-2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder)


def _shards(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    remaining = iter(rows)
    while shard := list(islice(remaining, size)):
        yield shard


def write_split(
    rows: Iterable[Row], folder: Path, rows_per_shard: int = ROWS_PER_SHARD
) -> tuple[SplitCount, dict[str, FileHash]]:
    """Write rows as `folder/part-NNNNN.parquet`; only one shard is held in memory.

    Returns the counts, and the hashes by file name. Raises `DataError` on a repeated id. The folder appears when all
    shards are complete.
    """
    categories: Counter[str] = Counter()
    files: dict[str, FileHash] = {}
    seen: set[str] = set()
    with write_aside(folder) as aside:
        for number, shard in enumerate(_shards(rows, rows_per_shard)):
            for row in shard:
                if row.id in seen:
                    raise DataError(f"the id {row.id!r} occurs twice in {folder.name}", "give every row its own id")
                seen.add(row.id)
                categories[row.category or ""] += 1
            path = aside / f"part-{number:05d}.parquet"
            table = build_table([row.model_dump() for row in shard])
            # PNGs don't compress further, but repeated helper images within a row do.
            pq.write_table(table, path, compression="zstd", compression_level=1, use_dictionary=False)
            files[path.name] = FileHash(sha256=sha256_of(path), bytes=path.stat().st_size, rows=len(shard))
    return SplitCount(rows=len(seen), categories=dict(sorted(categories.items()))), files


def sha256_of(path: Path) -> str:
    """Hash of a file in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong with a shard becomes `DataFileError` about it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"cannot read {path}: {error}", "prepare the set again with --overwrite") from error


def read_shard(path: Path) -> Iterator[Row]:
    """Validated rows of a shard. Raises `DataFileError` when it is missing or damaged."""
    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_BATCH):
            for data in batch.to_pylist():
                yield parse_row(data, str(path))


class PreparedSet:
    """Reader of a prepared set. Rows come in the order they were written."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)

    @property
    def splits(self) -> list[str]:
        return list(self.manifest.counts)

    def count(self, split: str) -> int:
        self._check(split)
        return self.manifest.counts[split].rows

    def shards(self, split: str) -> list[Path]:
        """The Parquet files of a split, in order: what `datasets.load_dataset("parquet", data_files=...)` takes."""
        self._check(split)
        return [self.path / name for name in self.manifest.files if name.startswith(f"{split}/")]

    def rows(self, split: str, limit: int | None = None, *, limits: PixelLimits | None = None) -> Iterator[Row]:
        """Validated rows, at most `limit` of them, with images outside `limits` resized.

        Raises `DataFileError` on a missing or damaged shard.
        """
        rows = islice(self._rows(self.shards(split)), limit)
        return (fit_row(row, limits) for row in rows) if limits else rows

    def check_sizes(self) -> None:
        """Quick check that every shard is there with its size; raises `DataFileError` naming the first that isn't."""
        for name, expected in self.manifest.files.items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != expected.bytes:
                raise DataFileError(f"{path} is missing or cut short", "prepare the set again with --overwrite")

    def verify(self) -> None:
        """Compare every shard's hash with the manifest; raises `DataFileError` naming the first that differs."""
        for name, expected in self.manifest.files.items():
            path = self.path / name
            if not path.is_file() or sha256_of(path) != expected.sha256:
                raise DataFileError(
                    f"{path} is missing or not what was written", "prepare the set again with --overwrite"
                )

    def _rows(self, shards: list[Path]) -> Iterator[Row]:
        for path in shards:
            yield from read_shard(path)

    def _check(self, split: str) -> None:
        if split not in self.manifest.counts:
            raise DataError(f"{self.path} has no split {split!r}", f"choose one of {', '.join(self.splits)}")
