"""HTTP to one or several replicas of the server: pooled, bounded, retried, spread by load.

A request waits as long as its server is alive (`replica.SilenceLimit`). Requests that are sent again are counted and
reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from covt_rollout.client.answers import FailedAnswerError, assemble, read_message
from covt_rollout.client.replica import Replica, SilenceError, SilenceLimit
from covt_rollout.endpoints import EVENT_STREAM, STREAM_FIELDS, WEIGHT_INFO, AnswerAssembler
from covt_rollout.rollout_errors import RolloutError, ServerRefusedError, ServerUnreachableError
from covt_rollout.server.server_options import is_loopback
from covt_rollout.upload_endpoints import DAMAGED

RETRIED_STATUS = frozenset({408, DAMAGED, 425, 429})
"""The server is too busy, a gateway failed, or a file arrived damaged: sending again may help. Other 4xx answers won't
change."""
MAX_RECOVERIES = 5
"""How often one request has the server brought back: a server that is ending may still look alive, and one that was
just started again may fail again."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP request; an assembler asks for a streamed answer and puts it together, a file is sent as the body."""

    method: str
    path: str
    body: Any = None
    params: Mapping[str, str] | None = None
    assembler: AnswerAssembler | None = None
    file: Path | None = None


class Transport:
    """Sends JSON to the least loaded replica; use it as an async context manager.

    Attributes:
        replicas: the servers.
        resent: how many requests were sent again so far.
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
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a transport; connections are opened on entering its context.

        Args:
            urls: addresses of the replicas.
            api_key: sent as the bearer token.
            concurrency: requests under way at once; others wait.
            timeout: seconds of silence after which a server counts as failed. A request may take any time while its
                server answers others, or the question whether it is alive.
            attempts: how often an idempotent request is sent before ServerUnreachableError. A silent server is not
                asked again.
            backoff: seconds before the second attempt. They double after each attempt, with jitter so that many
                requests don't come back at once.
            max_backoff: most seconds between two attempts.
            on_down: awaited when all attempts failed, once for all requests that fail together. It brings the server
                back; then the requests start over, up to MAX_RECOVERIES times.
            on_note: told in a sentence when a server fails, so that its requests are sent again, or is slow.
        """
        if not urls:
            raise RolloutError("no server address", "give at least one URL such as http://127.0.0.1:8000")
        self.replicas = [Replica(url.rstrip("/")) for url in urls]
        self.attempts, self.backoff, self.max_backoff = attempts, backoff, max_backoff
        self.on_down = on_down
        self.resent = 0
        self._note = on_note or _say_nothing
        self._silence = SilenceLimit(timeout, self._is_alive, self._note)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # `SilenceLimit` ends requests; aiohttp's own limit would be per request.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._slots = asyncio.Semaphore(concurrency)
        self._recovering = asyncio.Lock()
        self._recoveries = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self.replicas:
            if replica.probe is not None:
                replica.probe.cancel()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: Any = None, *, assembler: AnswerAssembler | None = None) -> Any:
        """POST to the least loaded replica, again where that can help.

        Args:
            path: of the endpoint.
            body: sent as JSON.
            assembler: asks for a streamed answer and puts it together. It is told when the request is sent again.

        Returns:
            The answer's JSON, or the assembler's answer.

        Raises:
            ServerRefusedError: the request is wrong.
            ServerUnreachableError: no attempt succeeded.
        """
        call = _Call("POST", path, body, assembler=assembler)
        async with self._slots:
            for recovery in range(1, MAX_RECOVERIES + 1):
                seen = self._recoveries
                try:
                    return await self._attempt(call)
                except ServerUnreachableError:
                    if not await self.recover(seen):
                        raise
                self._send_again(call)
                if recovery > 1:
                    await asyncio.sleep(min(self.backoff * 4**recovery, self.max_backoff))
            return await self._attempt(call)

    async def call_each(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        bodies: Sequence[Any] | None = None,
        params: Mapping[str, str] | None = None,
        attempts: int = 1,
    ) -> list[Any]:
        """Make the same call on every replica.

        Args:
            method: GET or POST.
            path: of the endpoint.
            body: sent to all replicas as JSON.
            bodies: one body for each replica, instead of the same for all.
            params: of the URL.
            attempts: how often the call is sent; once unless the caller knows that it is idempotent.

        Returns:
            The answers in the order of the replicas.

        Raises:
            ServerError: the first error. It is raised when all replicas have answered, so no call is under way then.
        """
        sent = [body] * len(self.replicas) if bodies is None else bodies
        return await self._call_all([_Call(method, path, one, params) for one in sent], attempts)

    async def upload_each(self, path: str, file: Path, *, attempts: int = 1) -> None:
        """PUT a file to every replica, read a piece at a time; errors are those of `call_each`.

        Args:
            path: of the endpoint.
            file: the body.
            attempts: how often the file is sent to a replica. One that arrived damaged is sent again.
        """
        await self._call_all([_Call("PUT", path, file=file)] * len(self.replicas), attempts)

    async def _call_all(self, calls: Sequence[_Call], attempts: int) -> list[Any]:
        """One call for each replica."""
        sent = (self._attempt(call, one, attempts) for call, one in zip(calls, self.replicas, strict=True))
        answers = await asyncio.gather(*sent, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def recover(self, seen: int | None = None) -> bool:
        """Bring the server back with `on_down`; returns False when there is no `on_down`.

        Args:
            seen: number of recoveries before the failure; when there has been one since, this call does nothing.
        """
        if self.on_down is None:
            return False
        expected = self._recoveries if seen is None else seen
        async with self._recovering:
            if self._recoveries == expected:
                await self.on_down()
                self._recoveries += 1
        return True

    async def _attempt(self, call: _Call, only: Replica | None = None, attempts: int | None = None) -> Any:
        limit = attempts or self.attempts
        delay, problem, replica, attempt = self.backoff, "", self.replicas[0], 0
        for attempt in range(1, limit + 1):
            replica = only or min(self.replicas, key=lambda one: one.load)
            replica.in_flight += 1
            silent = False
            try:
                return await self._silence.wait(replica, self._send(replica, call))
            except SilenceError as error:
                problem, silent = str(error), True
            except FailedAnswerError as error:
                problem = str(error)
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            finally:
                replica.in_flight -= 1
            if not replica.is_cooling:
                self._note(f"{replica.url} failed ({problem}); its requests are sent again")
            replica.failed = time.monotonic()
            if silent and (only is not None or all(one.is_cooling for one in self.replicas)):
                break
            if attempt < limit:
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, self.max_backoff)
                self._send_again(call)
        raise ServerUnreachableError(
            f"{replica.url}{call.path} failed {attempt} time{'s' if attempt > 1 else ''}: {problem}",
            unreachable_remedy(replica.url),
        )

    def _send_again(self, call: _Call) -> None:
        """Count a request that is about to be sent again."""
        self.resent += 1
        if call.assembler is not None:
            call.assembler.restart()

    async def _is_alive(self, url: str) -> bool:
        """Whether the engine, not only the HTTP server before it, answers."""
        assert self._session is not None, "the transport is used outside its `async with` block"
        try:
            async with self._session.get(url + WEIGHT_INFO) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def _send(self, replica: Replica, call: _Call) -> Any:
        if self._session is None:
            raise AssertionError("the transport is used outside its `async with` block")
        url = replica.url
        body = call.body if call.assembler is None else {**call.body, **STREAM_FIELDS}
        with contextlib.ExitStack() as stack:
            file = None if call.file is None else stack.enter_context(call.file.open("rb"))
            sending = self._session.request(call.method, url + call.path, json=body, data=file, params=call.params)
            async with sending as response:
                return await self._read(response, replica, call)

    async def _read(self, response: aiohttp.ClientResponse, replica: Replica, call: _Call) -> Any:
        replica.hear()
        if call.assembler is not None and response.status < 300 and response.content_type == EVENT_STREAM:
            return await assemble(response, call.assembler, replica)
        raw = await response.read()
        replica.hear()
        if response.status < 300:
            return json.loads(raw) if raw else None
        problem = read_message(raw)
        if 400 <= response.status < 500 and response.status not in RETRIED_STATUS:
            remedy = "give the API key" if response.status == 401 else "correct the request"
            raise ServerRefusedError(
                f"{replica.url}{call.path}: HTTP {response.status}: {problem}", remedy, response.status
            )
        raise FailedAnswerError(f"HTTP {response.status}: {problem}")


def unreachable_remedy(url: str) -> str:
    """What to do about a server that can't be reached."""
    host = urlsplit(url).hostname or ""
    if is_loopback(host):
        return (
            "check that the server runs on this machine (`covt serve CKPT`) and look at its log; for one on another "
            f"machine name that machine, since {host} is always this one"
        )
    return (
        "check that the server runs and look at its log; other machines reach it only when it was started with "
        "`covt serve CKPT --host 0.0.0.0`"
    )


def _say_nothing(_text: str) -> None:
    """For a caller that wants no notes."""
