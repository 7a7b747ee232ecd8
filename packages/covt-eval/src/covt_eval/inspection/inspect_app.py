"""The endpoints and the page beside a running server, as ASGI middleware that vLLM loads through `--middleware`.

They ask the server itself over HTTP, like any client: nothing here runs inside the engine.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from covt_data.data_errors import DataError
from covt_eval.eval_errors import EvalError
from covt_eval.inspection.inspect_page import POLICY, page_html
from covt_eval.inspection.inspect_request import MAX_BODY, one_line, read_request
from covt_eval.inspection.inspector import Inspector, collect, open_inspector
from covt_eval.inspection.offered_rows import OfferedRows
from covt_model.model_errors import ModelError
from covt_rewards.reward_errors import RewardError
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.endpoints import EVENT_STREAM
from covt_rollout.reading_endpoints import INSPECT, PAGE, ROWS
from covt_rollout.rollout_errors import RolloutError, ServerError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MIDDLEWARE = "covt_eval.inspection.inspect_app.InspectLatents"
DATA_VARIABLE, SPLIT_VARIABLE = "COVT_INSPECT_DATA", "COVT_INSPECT_SPLIT"
"""Environment variables that name the set whose rows are offered, and its split."""
AT_ONCE = 2
"""Requests that are looked into together; others wait."""
USER_ERRORS = (DataError, EvalError, ModelError, RewardError, RolloutError)
JSON_TYPE, HTML_TYPE = "application/json", "text/html; charset=utf-8"


class InspectLatents:
    """ASGI middleware that serves `PAGE`, `INSPECT` and `ROWS`, and passes on everything else."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.opening = asyncio.Lock()
        self.places = asyncio.Semaphore(AT_ONCE)
        self.inspector: Inspector | None = None

    @cached_property
    def rows(self) -> OfferedRows:
        return OfferedRows(os.environ.get(DATA_VARIABLE, ""), os.environ.get(SPLIT_VARIABLE, "test"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._pass_lifespan(scope, receive, send)
            return
        path, method = scope.get("path", ""), scope.get("method", "")
        if scope["type"] != "http" or not (path in ("/", PAGE, INSPECT) or path.startswith(f"{ROWS}/")):
            await self.app(scope, receive, send)
            return
        try:
            if path in ("/", PAGE) and method == "GET":
                await respond(send, 200, page_html().encode(), HTML_TYPE)
            elif path == INSPECT and method == "POST":
                await self._inspect(scope, receive, send)
            elif path == INSPECT and method == "GET":
                await respond(send, 200, (await self._open(scope)).describe())
            elif method == "GET":
                await respond(send, 200, (await self._open(scope)).rows.detail(row_index(path)))
            else:
                await self.app(scope, receive, send)
        except USER_ERRORS as error:
            await respond(send, 400, error_body(error))
        except ServerError as error:
            await respond(send, 503, error_body(error))

    async def _pass_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            if self.inspector is not None:
                await self.inspector.client.__aexit__(None, None, None)

    async def _open(self, scope: Scope) -> Inspector:
        """The inspector, which the first request prepares."""
        async with self.opening:
            if self.inspector is None:
                config = scope["app"].state.vllm_config.model_config
                checkpoint = Path(config.model)
                host, port = scope["server"]
                client = RolloutClient.for_checkpoint(
                    f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
                    checkpoint,
                    api_key=os.environ.get("VLLM_API_KEY"),
                    attempts=1,
                    stream_interval=1,
                )
                rows = await asyncio.to_thread(lambda: self.rows)
                pictures = config.get_multimodal_config().get_limit_per_prompt("image")
                opened = await open_inspector(
                    checkpoint, client, rows, max_length=config.max_model_len, max_pictures=pictures
                )
                await client.__aenter__()
                self.inspector = opened
            return self.inspector

    async def _inspect(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive)
        request = await asyncio.to_thread(read_request, body)
        inspector = await self._open(scope)
        asked = await asyncio.to_thread(inspector.ask, request)
        async with self.places:
            events = inspector.events(request, asked)
            if not request.stream:
                await respond(send, 200, collect([event async for event in events]))
                return
            await send({"type": "http.response.start", "status": 200, "headers": headers(EVENT_STREAM)})
            try:
                async for event in events:
                    await send_event(send, event)
            except (*USER_ERRORS, ServerError) as error:
                await send_event(send, {"event": "error", **error_body(error)})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def row_index(path: str) -> int:
    """The index in a path of `ROWS`; raises EvalError for anything else."""
    name = path.removeprefix(f"{ROWS}/")
    if not (name.isascii() and name.isdigit() and len(name) < 10):
        raise EvalError(f"{one_line(name, 40)!r} is no row", f"ask for {ROWS}/0")
    return int(name)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request; raises EvalError once it is larger than `MAX_BODY`."""
    parts: list[bytes] = []
    size, more = int(dict(scope["headers"]).get(b"content-length", b"0") or 0), True
    too_large = EvalError(f"the request has more than {MAX_BODY >> 20} MiB", "send smaller pictures")
    if size > MAX_BODY:
        raise too_large
    size = 0
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise EvalError("the request was given up", "send it again")
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > MAX_BODY:
            raise too_large
    return b"".join(parts)


def error_body(error: Any) -> dict[str, Any]:
    """An error in one sentence, in the form of the server's own errors."""
    return {"error": {"message": one_line(f"{error}: {error.remedy}", 500)}}


def headers(kind: str, size: int | None = None) -> list[tuple[bytes, bytes]]:
    """Headers of an answer; nothing of it is kept by browsers, and a page may load nothing from elsewhere."""
    found = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
    found += [(b"content-security-policy", POLICY.encode())] if kind == HTML_TYPE else []
    return found if size is None else [*found, (b"content-length", str(size).encode())]


async def respond(send: Send, status: int, answer: bytes | dict[str, Any], kind: str = JSON_TYPE) -> None:
    """Answer with bytes, or with JSON."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers(kind, len(body))})
    await send({"type": "http.response.body", "body": body})


async def send_event(send: Send, event: dict[str, Any]) -> None:
    """One server-sent event."""
    data = f"data: {json.dumps(event)}\n\n".encode()
    await send({"type": "http.response.body", "body": data, "more_body": True})
