"""Asks for the API key on every path of a server that other machines can reach.

vLLM's own check covers only `/v1`, `/v2` and `/inference`, not the endpoints that pause the engine and call into its
workers. vLLM loads this check through `--middleware`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

from covt_rollout.endpoints import HEALTH, PING
from covt_rollout.reading_endpoints import PAGE

Send = Callable[[dict[str, Any]], Awaitable[None]]
OPEN_PATHS = (HEALTH, PING, PAGE)


class RequireKey:
    """ASGI middleware that answers 401 unless the bearer token is VLLM_API_KEY.

    Health checks stay open, and the page, which holds nothing before it is given the key.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self.expected):
                headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
                await send({"type": "http.response.start", "status": 401, "headers": headers})
                await send({"type": "http.response.body", "body": b'{"error": "a valid API key is required"}'})
                return
        await self.app(scope, receive, send)
