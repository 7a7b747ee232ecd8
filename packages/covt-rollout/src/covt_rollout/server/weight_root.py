"""Where weights wait for a server, on the trainer's machine or the server's, and what killed processes left there."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "covt-weights-"
FOLDER_VARIABLE = "COVT_WEIGHT_FOLDER"
"""Environment variable that names a server's folder for uploaded weights; shared memory without it."""


def weights_root(folder: Path | str | None = None) -> Path:
    """The folder below which weights are written: `folder`, or shared memory where none is given."""
    if folder:
        return Path(folder)
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def make_owned_folder(root: Path) -> Path:
    """An empty folder below `root` that `remove_stale_folders` removes once this process has ended."""
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}@{host_name()}-", dir=root))


def remove_stale_folders(root: Path = SHARED_MEMORY) -> None:
    """Remove the folders of this machine's processes that were killed; other machines may write there too."""
    for left in root.glob(f"{PREFIX}*"):
        pid, _, host = left.name.removeprefix(PREFIX).rpartition("-")[0].partition("@")
        if host in ("", host_name()) and not _alive(pid):
            shutil.rmtree(left, ignore_errors=True)


def host_name() -> str:
    """This machine's name."""
    return socket.gethostname()


def _alive(pid: str) -> bool:
    return not pid.isdigit() or Path("/proc", pid).exists()
