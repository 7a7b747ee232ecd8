"""The part of the server's HTTP API that takes weights from a trainer whose files its machine can't see.

`covt_rollout.server.weight_upload` serves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from covt_rollout.endpoints import Replicas, load_body

UPLOADS = "/covt/weights"
DAMAGED, NO_ROOM = 409, 507
"""HTTP status of a file that arrived damaged, and of a server without room for an upload."""


async def announce_upload(replicas: Replicas, name: str, files: Mapping[str, tuple[int, str]]) -> list[str]:
    """Announce an upload of weight files.

    Args:
        replicas: all of them take the upload.
        name: of the upload.
        files: bytes and SHA-256 of each file by name.

    Returns:
        The folder, on its own machine, into which each replica takes the files.
    """
    body = {"files": {file: {"bytes": size, "sha256": digest} for file, (size, digest) in files.items()}}
    return [answer["folder"] for answer in await replicas.call_each("POST", f"{UPLOADS}/{name}", body)]


async def upload_file(replicas: Replicas, name: str, file: Path, attempts: int) -> None:
    """Send an announced file to all replicas; returns when every one of them has it whole."""
    await replicas.upload_each(f"{UPLOADS}/{name}/{file.name}", file, attempts=attempts)


async def remove_upload(replicas: Replicas, name: str) -> None:
    """Let all replicas remove an upload."""
    await replicas.call_each("DELETE", f"{UPLOADS}/{name}")


async def load_uploaded_weights(replicas: Replicas, folders: Sequence[str], version: int) -> None:
    """Let every replica load its upload, from the folder that `announce_upload` returned for it."""
    await replicas.call_each("POST", "/collective_rpc", bodies=[load_body(folder, version) for folder in folders])
