"""HTTP to one or several replicas of the server: pooled, bounded, retried, spread by load."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from covt_rollout.rollout_errors import RolloutError, ServerRefusedError, ServerUnreachableError

# Too busy, or a gateway between us: sending again may help. Other 4xx answers won't change.
RETRIED_STATUS = frozenset({408, 425, 429})


# Seconds for which a replica that failed is asked only when there is no other.
REST = 5.0
# How often one request has the server brought back. More than once, since a server that is ending may still look alive,
# and one that was just started again may be hit again.
REPAIRS = 5


class Assembly(Protocol):
    """Puts an answer together that the server streams."""

    def add(self, event: Any) -> None:
        """The next piece."""
        ...

    def answer(self) -> Any:
        """The whole; raises ValueError when parts are missing."""
        ...


@dataclass(slots=True)
class Replica:
    """One server: its address, the number of requests it is working on for us, and when it last failed."""

    url: str
    in_flight: int = 0
    failed: float = float("-inf")

    @property
    def load(self) -> tuple[bool, int]:
        """Smaller is better. A dead replica refuses at once, so by its requests alone it would seem idle."""
        return time.monotonic() - self.failed < REST, self.in_flight


class Transport:
    """Sends JSON to the least loaded replica; use it as an async context manager.

    attempts: how often an idempotent request is sent before ServerUnreachableError. backoff: seconds before the second
    attempt, doubled after each and capped at `max_backoff`, with jitter so that many requests don't come back at once.
    on_down: awaited when all attempts failed, once for all requests that fail together; it brings the server back and
    the requests start over, up to REPAIRS times. timeout: seconds an answer may take, the time in the server's queue
    included.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        api_key: str | None = None,
        concurrency: int = 256,
        timeout: float = 600.0,
        attempts: int = 6,
        backoff: float = 0.25,
        max_backoff: float = 8.0,
        on_down: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if not urls:
            raise RolloutError("no server address", "give at least one URL such as http://127.0.0.1:8000")
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self.attempts, self.backoff, self.max_backoff = attempts, backoff, max_backoff
        self.on_down = on_down
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=10)
        self._slots = asyncio.Semaphore(concurrency)
        self._repair = asyncio.Lock()
        self._repairs = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(
        self,
        path: str,
        body: Any = None,
        *,
        params: dict[str, str] | None = None,
        assembly: Assembly | None = None,
    ) -> Any:
        """POST to the least loaded replica, again where that can help; the answer's JSON.

        assembly: asks for a stream the first time, and puts it together; what has to be sent again is asked for whole.
        Raises ServerRefusedError for a wrong request and ServerUnreachableError when nothing helped.
        """
        async with self._slots:
            for repair in range(1, REPAIRS + 1):
                seen = self._repairs
                try:
                    return await self._attempt("POST", path, body, params, assembly=assembly if repair == 1 else None)
                except ServerUnreachableError:
                    if not await self.bring_back(seen):
                        raise
                if repair > 1:
                    await asyncio.sleep(min(self.backoff * 4**repair, self.max_backoff))
            return await self._attempt("POST", path, body, params)

    async def each(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bodies: Sequence[Any] | None = None,
        params: dict[str, str] | None = None,
        attempts: int = 1,
    ) -> list[Any]:
        """The same call on every replica, in their order; sent once unless the caller knows that it is idempotent.

        bodies: one for each replica, instead of the same for all. The first error is raised when all have answered, so
        that no call is still under way then.
        """
        given = [body] * len(self.replicas) if bodies is None else bodies
        calls = (
            self._attempt(method, path, one, params, replica, attempts)
            for one, replica in zip(given, self.replicas, strict=True)
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def bring_back(self, seen: int | None = None) -> bool:
        """Call `on_down`, unless a call came back since `seen` of them had; False when there is no `on_down`."""
        if self.on_down is None:
            return False
        expected = self._repairs if seen is None else seen
        async with self._repair:
            if self._repairs == expected:
                await self.on_down()
                self._repairs += 1
        return True

    async def _attempt(
        self,
        method: str,
        path: str,
        body: Any,
        params: dict[str, str] | None,
        only: Replica | None = None,
        attempts: int | None = None,
        assembly: Assembly | None = None,
    ) -> Any:
        limit = attempts or self.attempts
        delay, problem, replica = self.backoff, "", self.replicas[0]
        for attempt in range(limit):
            if attempt:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, self.max_backoff)
            replica = only or min(self.replicas, key=lambda one: one.load)
            replica.in_flight += 1
            try:
                return await self._send(replica.url, method, path, body, params, None if attempt else assembly)
            except (aiohttp.ClientError, ConnectionError, _FailedError) as error:
                problem = f"{type(error).__name__}: {error}" if not isinstance(error, _FailedError) else str(error)
            except TimeoutError:
                problem = f"no answer within {self._timeout.total:.0f} s"
            finally:
                replica.in_flight -= 1
            replica.failed = time.monotonic()
        raise ServerUnreachableError(
            f"{replica.url}{path} failed {limit} time{'s' if limit > 1 else ''}: {problem}",
            "check that the server runs (`covt serve CKPT`) and look at its log",
        )

    async def _send(
        self, url: str, method: str, path: str, body: Any, params: dict[str, str] | None, assembly: Assembly | None
    ) -> Any:
        if self._session is None:
            raise AssertionError("the transport is used outside its `async with` block")
        sent = body if assembly is None else body | {"stream": True}
        async with self._session.request(method, url + path, json=sent, params=params) as response:
            if assembly is not None and response.status < 300:
                return await _assembled(response, assembly)
            raw = await response.read()
            if response.status < 300:
                return json.loads(raw) if raw else None
            problem = _message(raw)
            if 400 <= response.status < 500 and response.status not in RETRIED_STATUS:
                remedy = "give the API key" if response.status == 401 else "correct the request"
                raise ServerRefusedError(f"{url}{path}: HTTP {response.status}: {problem}", remedy, response.status)
            raise _FailedError(f"HTTP {response.status}: {problem}")


class _FailedError(Exception):
    """An answer that says the server failed; never leaves this module."""


async def _assembled(response: aiohttp.ClientResponse, assembly: Assembly) -> Any:
    """Read server-sent events up to `[DONE]`."""
    rest = b""
    async for block in response.content.iter_any():
        *lines, rest = (rest + block).split(b"\n")
        for data in filter(None, (line.removeprefix(b"data:").strip() for line in lines)):
            try:
                if data == b"[DONE]":
                    return assembly.answer()
                event = json.loads(data)
            except ValueError as error:
                raise _FailedError(f"a broken stream: {error}") from error
            if "error" in event:
                raise _FailedError(f"a broken stream: {_message(data)}")
            assembly.add(event)
    raise _FailedError("a broken stream: it has no end")


def _message(raw: bytes) -> str:
    """The message inside an OpenAI-style error answer, or the answer's beginning."""
    try:
        value = json.loads(raw)
    except ValueError:
        return raw[:500].decode(errors="replace")
    error = value.get("error", value.get("detail", value)) if isinstance(value, dict) else value
    return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
