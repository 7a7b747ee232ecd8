"""Reading what a server answers: streamed events, and the message of an error."""

from __future__ import annotations

import json
from typing import Any, cast

import aiohttp

from covt_rollout.client.replica import Replica
from covt_rollout.endpoints import AnswerAssembler


class FailedAnswerError(Exception):
    """An answer that says the server failed; never leaves the client."""


async def assemble(response: aiohttp.ClientResponse, assembler: AnswerAssembler, replica: Replica) -> Any:
    """Read server-sent events up to `[DONE]`; each block is a sign of life."""
    rest = b""
    async for block in response.content.iter_any():
        replica.hear()
        *lines, rest = (rest + block).split(b"\n")
        for data in filter(None, (line.removeprefix(b"data:").strip() for line in lines)):
            try:
                if data == b"[DONE]":
                    return assembler.answer()
                event = json.loads(data)
            except ValueError as error:
                raise FailedAnswerError(f"a broken stream: {error}") from error
            if "error" in event:
                raise FailedAnswerError(f"a broken stream: {read_message(data)}")
            assembler.add(event)
    raise FailedAnswerError("a broken stream: it has no end")


def read_message(raw: bytes) -> str:
    """The message inside an OpenAI-style error answer, or the answer's beginning."""
    try:
        value: Any = json.loads(raw)
    except ValueError:
        return raw[:500].decode(errors="replace")
    error: Any = value
    if isinstance(value, dict):
        fields = cast(dict[str, Any], value)
        error = fields.get("error", fields.get("detail", fields))
    return str(cast(dict[str, Any], error).get("message", error) if isinstance(error, dict) else error)[:500]
