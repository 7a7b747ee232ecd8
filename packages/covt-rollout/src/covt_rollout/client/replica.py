"""One server as the client sees it: how busy it is, when it failed, and when it last gave a sign of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Probe = Callable[[str], Awaitable[bool]]
"""Asks the server at an address for an answer of its engine, and says whether it came."""

COOLDOWN = 5.0
"""Seconds for which a replica that failed is asked only when there is no other."""


class SilenceError(Exception):
    """A replica gave no sign of life for too long; never leaves the client."""


@dataclass(slots=True)
class Replica:
    """One server.

    Attributes:
        url: its address.
        in_flight: number of our requests that it is working on.
        failed: when it last failed.
        heard: when it last sent anything, to any request.
        probe: the question whether it is alive, while it is being asked.
        said_slow: when the user was last told that it is slow.
    """

    url: str
    in_flight: int = 0
    failed: float = float("-inf")
    heard: float = float("-inf")
    probe: asyncio.Task[bool] | None = field(default=None, repr=False)
    said_slow: float = float("-inf")

    @property
    def is_cooling(self) -> bool:
        """Whether it failed a moment ago."""
        return time.monotonic() - self.failed < COOLDOWN

    @property
    def load(self) -> tuple[bool, int]:
        """Smaller is better. A dead replica refuses at once, so its requests alone would make it seem idle."""
        return self.is_cooling, self.in_flight

    def hear(self) -> None:
        """Note a sign of life."""
        self.heard = time.monotonic()


class SilenceLimit:
    """Lets requests wait as long as their replica is alive, and gives them up when it is silent.

    A request may take long because the server is slow or has many others to serve first; sending it again would only
    add to its work. After half of the limit without a byte to any request, the replica's engine is asked for an answer.
    """

    def __init__(self, seconds: float, probe: Probe, on_note: Callable[[str], None]) -> None:
        """Set the limit.

        Args:
            seconds: silence after which a replica counts as failed.
            probe: asks a replica for a sign of life.
            on_note: told when a replica is slow.
        """
        self.seconds, self._probe, self._note = seconds, probe, on_note

    async def wait(self, replica: Replica, request: Coroutine[Any, Any, T]) -> T:
        """The request's result; raises SilenceError when the replica gives no sign of life for `seconds`."""
        task = asyncio.ensure_future(request)
        began = time.monotonic()
        try:
            while True:
                left = max(began, replica.heard) + self.seconds / 2 - time.monotonic()
                if left > 0:
                    if (await asyncio.wait({task}, timeout=left))[0]:
                        return task.result()
                    continue
                probe = self._probe_once(replica)
                await asyncio.wait({task, probe}, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                if not probe.result():
                    raise SilenceError(f"no sign of life for {self.seconds:g} s")
                self._say_slow(replica, began)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _probe_once(self, replica: Replica) -> asyncio.Task[bool]:
        """One question for all requests that wait for the same replica."""
        if replica.probe is None or replica.probe.done():
            replica.probe = asyncio.ensure_future(self._ask(replica))
        return replica.probe

    async def _ask(self, replica: Replica) -> bool:
        try:
            async with asyncio.timeout(self.seconds / 2):
                alive = await self._probe(replica.url)
        except TimeoutError:
            return False
        if alive:
            replica.hear()
        return alive

    def _say_slow(self, replica: Replica, began: float) -> None:
        now = time.monotonic()
        if now - replica.said_slow < self.seconds / 2:
            return
        replica.said_slow = now
        self._note(
            f"{replica.url} is slow: a request has waited {now - began:.0f} s; the server is alive, so it waits on"
        )
