"""A small HTTP server that answers generate requests as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], "Awaitable[web.StreamResponse] | web.StreamResponse | Stream"]
GENERATE = "/inference/v1/generate"


def completed(
    body: dict[str, Any],
    token_ids: list[int],
    *,
    version: str | None = "default",
    finish_reason: str = "stop",
    versions: list[dict[str, Any]] | None = None,
) -> web.Response:
    """What the server says when it has sampled `token_ids` for each of the n samples."""
    spans = versions or [{"version": version, "start": 0, "end": len(token_ids)}]
    choice = {
        "token_ids": token_ids,
        "logprobs": {"content": [{"token_id": token, "logprob": -0.5} for token in token_ids]},
        "finish_reason": finish_reason,
        "weight_versions": spans,
    }
    number = body["sampling_params"]["n"]
    choices = [choice | {"index": index} for index in reversed(range(number))]
    return web.json_response({"prompt_token_ids": body["token_ids"], "choices": choices})


def piece(
    index: int, token_ids: list[int], finish_reason: str | None = None, version: str = "default"
) -> dict[str, Any]:
    """One event of a streamed answer; the last of a sample has a finish reason and the versions."""
    choice = {
        "index": index,
        "token_ids": token_ids,
        "logprobs": {"content": [{"token_id": token, "logprob": -0.5} for token in token_ids]},
        "finish_reason": finish_reason,
        "weight_versions": [{"version": version, "start": 0, "end": 1}] if finish_reason else None,
    }
    return {"choices": [choice]}


class Stream:
    """A streamed answer, which the test sends event by event."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body, self.events = body, asyncio.Queue[Any]()

    def send(self, *events: Any) -> None:
        """Pieces in order; a string is sent as it is, None ends the answer."""
        for event in events:
            self.events.put_nowait(event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        first: dict[str, Any] = {"prompt_token_ids": self.body["token_ids"]}
        while (event := await self.events.get()) is not None:
            if not isinstance(event, str):
                event, first = json.dumps(event | first), {}
            await response.write(f"data: {event}\n\n".encode())
        return response


@asynccontextmanager
async def serving(answer: Answer, path: str = GENERATE) -> AsyncIterator[str]:
    """The URL of a server that answers `path` with `answer(body)`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        result = answer(await request.json())
        if isinstance(result, Stream):
            return await result.answer(request)
        return await result if isinstance(result, Awaitable) else result

    app = web.Application()
    app.router.add_post(path, handle)
    async with serving_app(app) as url:
        yield url


@asynccontextmanager
async def serving_app(app: web.Application) -> AsyncIterator[str]:
    """The URL of a server with these routes."""
    # A client that gives up ends its request here too, as it does in vLLM.
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await work

    return asyncio.run(main())
