"""The work folder of a long preparation, which can resume after being killed at any moment.

`.<name>.work/` beside the target holds the finished shards (`set/`), the unpacked images, the log of rejections and
the keys of the rows so far. `state.json` is replaced whenever a shard is complete. It records how much of each file
is valid; the rest is truncated or rewritten.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import Field

from covt_data.data_errors import DataFileError
from covt_data.rejects import REJECTED_NAME, Rejection
from covt_data.schema import Record
from covt_data.store.manifest import FileHash, SplitCount

STATE_NAME = "state.json"
KEY_BYTES = 16


class Progress(Record):
    """The progress of a preparation. Sizes and counts describe the files in the work folder."""

    fingerprint: str
    unpacked: bool = False
    split: str = ""
    next_record: int = 0
    done_splits: list[str] = Field(default_factory=list[str])
    counts: dict[str, SplitCount] = Field(default_factory=dict[str, SplitCount])
    files: dict[str, FileHash] = Field(default_factory=dict[str, FileHash])
    records: dict[str, int] = Field(default_factory=dict[str, int])
    rejected: dict[str, int] = Field(default_factory=dict[str, int])
    rejected_of: dict[str, int] = Field(default_factory=dict[str, int])
    filtered: dict[str, int] = Field(default_factory=dict[str, int])
    converted: dict[str, int] = Field(default_factory=dict[str, int])
    log_bytes: int = 0
    key_bytes: int = 0


class WorkFolder:
    """The work folder of one target, held by one process at a time."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.work")

    @property
    def set(self) -> Path:
        return self.path / "set"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def log(self) -> Path:
        return self.set / REJECTED_NAME

    @property
    def keys(self) -> Path:
        return self.path / "keys.bin"

    @contextmanager
    def locked(self) -> Generator[None]:
        """Create the folder and lock it. The lock is released when the process ends in any way."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataFileError(
                    f"{self.path} is in use by another process", "wait for it, or choose another folder with --out"
                ) from None
            yield

    def resume(self, fingerprint: str) -> Progress:
        """Return the progress saved for this fingerprint. Progress of another preparation is discarded."""
        path = self.path / STATE_NAME
        if path.is_file():
            progress = Progress.model_validate_json(path.read_bytes())
            if progress.fingerprint == fingerprint and self._holds(progress):
                _cut(self.log, progress.log_bytes)
                _cut(self.keys, progress.key_bytes)
                return progress
        for leftover in (self.set, self.images):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in (path, self.keys):
            leftover.unlink(missing_ok=True)
        self.set.mkdir()
        self.log.touch()
        self.keys.touch()
        return Progress(fingerprint=fingerprint)

    def save(self, progress: Progress) -> None:
        aside = self.path / f"{STATE_NAME}.new"
        aside.write_text(progress.model_dump_json(), encoding="utf-8")
        os.replace(aside, self.path / STATE_NAME)  # noqa: PTH105 - atomic

    def remove_leftover(self) -> None:
        """Remove the folder of a process that was killed after its set was in place."""
        if self.path.is_dir():
            with self.locked():
                self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _holds(self, progress: Progress) -> bool:
        """Whether all files that `progress` describes exist."""
        sizes = {self.set / name: entry.bytes for name, entry in progress.files.items()}
        exact = all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
        at_least = {self.log: progress.log_bytes, self.keys: progress.key_bytes}
        return exact and all(path.is_file() and path.stat().st_size >= size for path, size in at_least.items())


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


class RejectionLog:
    """Appends to `rejected.jsonl`."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def add(self, rejection: Rejection) -> None:
        self.file.write(rejection.to_json().encode("ascii"))

    def end(self) -> int:
        """Flush, and return the size of the log in bytes."""
        self.file.flush()
        return self.file.tell()
