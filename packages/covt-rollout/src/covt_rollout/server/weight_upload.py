"""Receives weights over HTTP, for a trainer whose files this machine can't see.

vLLM loads this ASGI middleware through `--middleware`. An upload is announced with the sizes and checksums of its
files, comes file by file into a folder on this machine, is loaded from there as any folder is, and is removed. Memory
holds a piece of a file; a file that is not whole never has its name.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from covt_rollout.server.weight_root import FOLDER_VARIABLE, make_owned_folder, remove_stale_folders, weights_root
from covt_rollout.upload_endpoints import DAMAGED, NO_ROOM, UPLOADS

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

PIECE = 4 << 20
"""Bytes of a file that are written at once."""
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}\.safetensors")
GIB = 1 << 30


class AnnouncedFile(msgspec.Struct):
    """Size in bytes and SHA-256, in hexadecimal digits, of a file that will come."""

    bytes: int
    sha256: str


class Announcement(msgspec.Struct):
    """The files of an upload by name."""

    files: dict[str, AnnouncedFile]


class UploadError(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """An upload that is under way, or complete; its trainer chose the name."""

    name: str
    folder: Path
    files: dict[str, AnnouncedFile]


class WeightUploads:
    """ASGI middleware that serves `UPLOADS` and passes on everything else; it holds one upload at a time.

    `POST UPLOADS/NAME` announces files and answers with their folder, `PUT UPLOADS/NAME/FILE` brings one of them, and
    `DELETE UPLOADS/NAME` removes the folder. A new announcement replaces an earlier upload, whose trainer has died.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.upload: Upload | None = None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._pass_lifespan(scope, receive, send)
            return
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(f"{UPLOADS}/"):
            await self.app(scope, receive, send)
            return
        try:
            answer = await self._serve(scope["method"], path.removeprefix(f"{UPLOADS}/"), read_body(receive))
        except UploadError as error:
            await respond(send, error.status, {"error": {"message": str(error)}})
        else:
            await respond(send, 200, answer)

    async def _pass_lifespan(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self._remove()

    async def _serve(self, method: str, rest: str, body: AsyncIterator[bytes]) -> dict[str, Any]:
        name, _, file = rest.partition("/")
        if method == "POST" and not file:
            return {"folder": str(self._announce(name, b"".join([piece async for piece in body])))}
        if self.upload is None or self.upload.name != name:
            raise UploadError(404, f"there is no upload {name!r}; it was replaced, or the server was started again")
        if method == "DELETE" and not file:
            self._remove()
            return {}
        if method == "PUT" and file in self.upload.files:
            await receive_file(self.upload.folder / file, self.upload.files[file], body)
            return {}
        raise UploadError(404, f"{method} {rest!r} is not part of the upload that was announced")

    def _announce(self, name: str, body: bytes) -> Path:
        try:
            files = msgspec.json.decode(body, type=Announcement).files
        except msgspec.DecodeError as error:
            raise UploadError(400, f"the announcement is malformed: {error}") from error
        wrong = [file for file in files if not FILE_NAME.fullmatch(file)]
        if wrong or not files:
            raise UploadError(400, f"{wrong[0]!r} is no name of a weight file" if wrong else "no files were announced")
        self._remove()
        root = weights_root(os.environ.get(FOLDER_VARIABLE))
        remove_stale_folders(root)
        check_room(root, sum(file.bytes for file in files.values()))
        self.upload = Upload(name, make_owned_folder(root), files)
        return self.upload.folder

    def _remove(self) -> None:
        if self.upload is not None:
            shutil.rmtree(self.upload.folder, ignore_errors=True)
        self.upload = None


def check_room(root: Path, needed: int) -> None:
    """Raise UploadError when `root` can't hold `needed` bytes."""
    remedy = f"start the server with --weight-folder FOLDER, or enlarge {root}"
    try:
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise UploadError(NO_ROOM, f"weights can't go to {root}: {error.strerror}; {remedy}") from error
    if free < needed:
        raise UploadError(
            NO_ROOM, f"weights need {needed / GIB:.2f} GiB in {root}, where {free / GIB:.2f} are free; {remedy}"
        )


async def receive_file(path: Path, expected: AnnouncedFile, body: AsyncIterator[bytes]) -> None:
    """Write a request's body to `path`, which appears once the body has the announced size and checksum.

    Raises UploadError when it doesn't, or can't be written.
    """
    digest, size = hashlib.sha256(), 0

    def write(piece: bytes) -> None:
        file.write(piece)
        digest.update(piece)

    try:
        # A name of its own: a request that was given up may still be writing the same file.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            async for piece in pieces(body, PIECE):
                size += len(piece)
                if size > expected.bytes:
                    break
                await asyncio.to_thread(write, piece)
        if size != expected.bytes or digest.hexdigest() != expected.sha256:
            partial.unlink()
            raise UploadError(
                DAMAGED, f"{path.name} arrived with {size} bytes that are not the {expected.bytes} announced"
            )
        partial.rename(path)
    except OSError as error:
        raise UploadError(NO_ROOM, f"{path} can't be written: {error.strerror}") from error


async def pieces(body: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The same bytes in pieces of at least `size`, but for the last."""
    held: list[bytes] = []
    length = 0
    async for part in body:
        held.append(part)
        length += len(part)
        if length >= size:
            yield b"".join(held)
            held, length = [], 0
    if held:
        yield b"".join(held)


async def read_body(receive: Receive) -> AsyncIterator[bytes]:
    """The body of a request as it comes; it ends early when the client goes."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


async def respond(send: Send, status: int, answer: dict[str, Any]) -> None:
    """Answer with JSON."""
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
