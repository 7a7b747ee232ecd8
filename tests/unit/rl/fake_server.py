"""A small HTTP server that answers generate requests as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]
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


@asynccontextmanager
async def serving(answer: Answer, path: str = GENERATE) -> AsyncIterator[str]:
    """The URL of a server that answers `path` with `answer(body)`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        result = answer(await request.json())
        return await result if isinstance(result, Awaitable) else result

    app = web.Application()
    app.router.add_post(path, handle)
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
