"""The folder in which a trainer's weights wait for the server: whether there is room, and errors of writing it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from covt_rollout.rollout_errors import WeightPushError
from covt_rollout.server.weight_root import make_owned_folder, remove_stale_folders, weights_root

COPIES = 2
"""Copies of the model that the folder holds during a push: the weights that are served, and the new ones."""
GIB = 1 << 30
REMEDY = (
    "set rollout.weight_folder to a folder with room for two copies of the model, or enlarge shared memory (with "
    "--shm-size for a container)"
)


def check_room(root: Path, needed: float) -> None:
    """Refuse a folder that is too small for two copies of the model, before anything is written.

    Args:
        root: of `weights_root`.
        needed: bytes of one copy.

    Raises:
        WeightPushError: there is too little room, or no such folder.
    """
    try:
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise WeightPushError(
            f"new weights can't go to {root}: {error.strerror}", "set rollout.weight_folder to a folder that exists"
        ) from error
    if free < COPIES * needed:
        raise WeightPushError(
            f"new weights go to {root}, where {free / GIB:.2f} GiB are free; {COPIES} copies of the model need "
            f"{COPIES * needed / GIB:.2f} GiB",
            REMEDY,
        )


@contextlib.contextmanager
def scratch_folder(folder: Path | None = None) -> Iterator[Path]:
    """An empty folder in shared memory (or in `folder`), removed at the end.

    Folders of publishers that were killed are removed too.

    Raises:
        WeightPushError: the folder can't be written, or is full; also for what the block writes there.
    """
    root = weights_root(folder)
    remove_stale_folders(root)
    with _write_errors(root):
        path = make_owned_folder(root)
    try:
        with _write_errors(root):
            yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _write_errors(root: Path) -> Iterator[None]:
    """Turn an error of the disk or of safetensors into one sentence with a remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and hasattr(error, "remedy"):
            raise
        free = f"; {shutil.disk_usage(root).free / GIB:.2f} GiB are free" if root.is_dir() else ""
        raise WeightPushError(f"can't write weights to {root}: {error}{free}", REMEDY) from error
