"""Prepared sets on disk: `<out>/<split>/part-NNNNN.parquet` with the images inside, and `manifest.json`.

A set is complete or absent: shards are written to a folder beside the target, which is renamed when complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
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
def disk_errors(target: Path) -> Generator[None]:
    """Turn disk errors into `DataFileError` about `target`."""
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
    """Rename a complete folder to `target`. An existing `target` is replaced, and restored if renaming fails."""
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
def write_aside(target: Path) -> Generator[Path]:
    """Yield a new folder beside `target` that replaces it when the block succeeds, and is removed when it fails.

    Raises:
        DataFileError: for disk errors.
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
    """Remove partial folders of processes that were killed."""
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
    """Write rows as `folder/part-NNNNN.parquet`, with one shard in memory at a time.

    The folder appears when all shards are complete.

    Returns:
        The counts, and the hashes by file name.

    Raises:
        DataError: when an id occurs twice.
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
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Turn errors of reading a shard into `DataFileError` about it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"cannot read {path}: {error}", "prepare the set again with --overwrite") from error


def read_shard(path: Path) -> Iterator[Row]:
    """Yield the validated rows of a shard.

    Raises:
        DataFileError: when the shard is missing or damaged.
    """
    with reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_BATCH):
            for data in batch.to_pylist():
                yield parse_row(data, str(path))


class PreparedSet:
    """Reader of a prepared set. Rows keep the order in which they were written."""

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
        """The Parquet files of a split, in order, as `datasets.load_dataset("parquet", data_files=...)` takes them."""
        self._check(split)
        return [self.path / name for name in self.manifest.files if name.startswith(f"{split}/")]

    def rows(self, split: str, limit: int | None = None, *, limits: PixelLimits | None = None) -> Iterator[Row]:
        """Yield validated rows.

        Args:
            split: name of the split.
            limit: greatest number of rows.
            limits: images outside these limits are resized.

        Raises:
            DataFileError: when a shard is missing or damaged.
        """
        rows = islice(self._rows(self.shards(split)), limit)
        return (fit_row(row, limits) for row in rows) if limits else rows

    def check_sizes(self) -> None:
        """Check quickly that every shard exists with its size; raise `DataFileError` naming the first that does not."""
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
