"""An HTTP proxy that writes down, in order, what a real server is told."""

from __future__ import annotations

import asyncio
import threading
from itertools import groupby
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

NOTED = ("/wake_up", "/sleep", "/pause")


class CallRecorder:
    """`url` leads to the server at `target`; use it as a context manager.

    calls: `path?query`, or the method of /collective_rpc, or `generate`. versions: as which weights were loaded.
    """

    def __init__(self, target: str) -> None:
        self.target, self.url = target, ""
        self.calls: list[str] = []
        self.versions: list[int] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def phases(self) -> list[str]:
        """The calls that change hands or weights, and samplings; repeated ones once."""
        told = [one for one in self.calls if one.startswith(NOTED) or one in ("generate", "covt_load_weights")]
        return [one for one, _ in groupby(told)]

    def _note(self, path: str, query: list[str], body: Any) -> None:
        if path == "/collective_rpc":
            self.calls.append(body["method"])
            if body["method"] == "covt_load_weights":
                self.versions.append(body["args"][1])
        else:
            self.calls.append("generate" if path.endswith("/generate") else " ".join([path, *query]))

    async def _forward(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self._note(request.path, list(request.query.values()), await request.json() if raw else None)
        headers = {"content-type": "application/json"}
        async with self._session.request(
            request.method, self.target + request.path_qs, data=raw or None, headers=headers
        ) as answer:
            return web.Response(
                status=answer.status, body=await answer.read(), headers={"content-type": answer.content_type}
            )

    async def _start(self) -> None:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300))
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
