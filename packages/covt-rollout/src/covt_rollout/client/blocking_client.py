"""The asynchronous client for blocking code: an event loop in a thread that lives as long as the client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from covt_rollout.client.rollout_client import RolloutClient

T = TypeVar("T")


class BlockingClient:
    """Runs a client's coroutines to completion: `with BlockingClient(client) as c: c.run(client.generate(...))`.

    Connections stay open between calls. Ctrl-C during `run` cancels the coroutine and raises KeyboardInterrupt. Leaving
    the context cancels calls that other threads wait for; `run` raises CancelledError there.
    """

    def __init__(self, client: RolloutClient) -> None:
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout-client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        """Cancel all running tasks, since a thread that waits for one would wait forever."""
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.client.__aexit__(None, None, None)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the coroutine and return its result; its exceptions are raised here."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
