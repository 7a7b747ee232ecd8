"""Several servers for one checkpoint, started side by side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from covt_rollout.rollout_errors import ServerError
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import STAGE_NAMES, LatentServer, Progress, free_ports

POLL = 0.5


@contextmanager
def serving(
    checkpoint: Path | str,
    count: int,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    options: ServerOptions | None = None,
    on_progress: Progress | None = None,
    **settings: Any,
) -> Iterator[list[LatentServer]]:
    """`count` servers that answer; they end with the block, and also when one of them can't be started.

    port: of the first, the others take those that follow; None chooses free ones. on_progress: as of
    `LatentServer.start`, called when the last server has reached a stage. settings: others of `LatentServer.start`.
    """
    if count < 1:
        raise ServerError(f"{count} replicas were asked for", "use --replicas 1 or more")
    ports = free_ports(host, count) if port is None else list(range(port, port + count))
    stages, given_up = Stages(count, on_progress), threading.Event()

    def start(number: int) -> LatentServer:
        return LatentServer.start(
            checkpoint,
            host=host,
            port=ports[number],
            options=replace(options or ServerOptions(), replica=number),
            on_progress=lambda stage, seconds: stages.reached(number, stage, seconds),
            abandon=given_up.is_set,
            **settings,
        )

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(count))
        starts = [pool.submit(start, number) for number in range(count)]
        for one in starts:
            stack.callback(_end, one)
        stack.callback(given_up.set)
        done, _ = wait(starts, return_when=FIRST_EXCEPTION)
        for one in done:
            one.result()
        yield [one.result() for one in starts]


def _end(start: Future[LatentServer]) -> None:
    """Wait for a start and stop its server; one that could not be started has left nothing behind."""
    if start.exception() is None:
        start.result().stop()


class Stages:
    """Tells each stage once, when the last of the servers has reached it."""

    def __init__(self, count: int, on_progress: Progress | None) -> None:
        self._at = [-1] * count
        self._told = -1
        self._on_progress = on_progress or (lambda _stage, _seconds: None)
        self._lock = threading.Lock()

    def reached(self, number: int, stage: str, seconds: float) -> None:
        with self._lock:
            self._at[number] = STAGE_NAMES.index(stage)
            if (last := min(self._at)) > self._told:
                self._told = last
                self._on_progress(STAGE_NAMES[last], seconds)


def watch(servers: list[LatentServer], stopped: threading.Event) -> None:
    """Return when `stopped` is set; raises ServerError when one of the servers has died."""
    while not stopped.wait(POLL):
        for server in servers:
            server.check()
