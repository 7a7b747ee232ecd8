"""Weights to servers that can't see the trainer's files: uploaded over HTTP, file by file, with checksums.

Memory holds a piece of a file on both sides. A server loads what it was sent only when all of it is there, so an upload
that is cut short leaves the old weights in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import uuid
from pathlib import Path

from covt_rollout.client.http_transport import Transport
from covt_rollout.rollout_errors import ServerError, ServerRefusedError, WeightPushError
from covt_rollout.upload_endpoints import announce_upload, load_uploaded_weights, remove_upload, upload_file

ATTEMPTS = 4
"""How often a file is sent to a server that lost the connection or received it damaged."""


async def load_over_http(transport: Transport, folder: Path | str, version: int) -> None:
    """Send `folder/*.safetensors` to every replica and let it load them as `version`; a `weight_sync.LoadWeights`.

    Raises:
        ServerError: a replica can't be reached, has no room, or can't load the weights.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    name = uuid.uuid4().hex
    described = {file.name: (file.stat().st_size, await asyncio.to_thread(sha256, file)) for file in files}
    try:
        folders = await announce_upload(transport, name, described)
        for file in files:
            await upload_file(transport, name, file, ATTEMPTS)
        await load_uploaded_weights(transport, folders, version)
    except ServerRefusedError as error:
        if error.status == 401:
            raise
        raise WeightPushError(
            f"the weights were not taken: {error}", "start the server again with the same release of covt"
        ) from error
    finally:
        # A server that fails here has lost the upload with the rest, or removes it before the next one.
        with contextlib.suppress(ServerError, ServerRefusedError):
            await remove_upload(transport, name)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
