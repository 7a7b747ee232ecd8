"""Files that are complete or absent (written aside, flushed, renamed), and folders with a hash for each file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from covt_runtime.runtime_errors import CheckpointError, RunFolderError

MANIFEST = "manifest.json"
LOCK = ".lock"
REMEDIES = {
    errno.ENOSPC: "free some space on the disk, then continue with --resume",
    errno.EDQUOT: "free some of your quota, then continue with --resume",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or use a disk with more space",
    errno.EACCES: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the system's errors about writing below `path` into user errors; others pass unchanged."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _error_number(error)
        if number not in REMEDIES:
            raise
        raise CheckpointError(f"can't write {path}: {os.strerror(number)}", REMEDIES[number]) from error


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder` until the block or this process ends.

    Raises:
        RunFolderError: another process holds it.
    """
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"another covt is at work in {folder}", "wait until it ends, or use another folder"
            ) from error
        yield


def _error_number(error: OSError | SafetensorError) -> int:
    """The system's error number. safetensors gives it only in its message: "... (os error 28)" or "code: 28"."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"(?:os error|code:) (\d+)", str(error))
    return int(found[1]) if found else 0


def write_text(path: Path, text: str) -> None:
    """Replace a file's content atomically."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file's content atomically."""
    write_text(path, json.dumps(value, indent=1))


def sync_file(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the size and hash of every file in `folder`. It is the last file that a checkpoint gets."""
    files = {p.name: {"size": p.stat().st_size, "sha256": file_hash(p)} for p in sorted(folder.iterdir())}
    write_json(folder / MANIFEST, {"files": files})


def find_damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """Check a folder against its manifest.

    Args:
        folder: the folder.
        part: hash only the files whose number is `part` modulo `parts`, so that ranks can divide the work.
        parts: number of processes that divide the work.

    Returns:
        What is wrong, or None for a folder that is as it was written.
    """
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not readable"
    for i, (name, expected) in enumerate(sorted(files.items())):
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if i % parts == part and file_hash(path) != expected["sha256"]:
            return f"the content of {name} has changed"
    return None


def remove_folder(folder: Path) -> None:
    """Delete a folder. Its name is free first, so nobody sees a half-deleted folder under it."""
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    shutil.rmtree(gone)
