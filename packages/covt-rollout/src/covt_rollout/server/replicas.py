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
from covt_rollout.server.server_process import STAGE_NAMES, LatentServer, OnStage, free_ports

POLL = 0.5


@contextmanager
def run_replicas(
    checkpoint: Path | str,
    count: int,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    options: ServerOptions | None = None,
    on_progress: OnStage | None = None,
    **settings: Any,
) -> Iterator[list[LatentServer]]:
    """Run `count` servers; they end with the block, and also when one of them can't be started.

    Args:
        checkpoint: folder to serve.
        count: number of servers.
        host: address to listen on.
        port: of the first server; the others take the ports that follow. None chooses free ones.
        options: of every server.
        on_progress: called when the last server has reached a stage.
        **settings: further arguments of `LatentServer.start`.

    Raises:
        ServerError: a server could not be started.
    """
    if count < 1:
        raise ServerError(f"{count} replicas were asked for", "use --replicas 1 or more")
    ports = free_ports(host, count) if port is None else list(range(port, port + count))
    stages, given_up = SlowestStage(count, on_progress), threading.Event()

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
    """Wait for a start and stop its server; a failed start has left nothing behind."""
    if start.exception() is None:
        start.result().stop()


class SlowestStage:
    """Reports each stage once, when the last of the servers has reached it."""

    def __init__(self, count: int, on_progress: OnStage | None) -> None:
        self._stage_of = [-1] * count
        self._reported = -1
        self._on_progress = on_progress or (lambda _stage, _seconds: None)
        self._lock = threading.Lock()

    def reached(self, number: int, stage: str, seconds: float) -> None:
        """Note that server `number` has reached `stage`."""
        with self._lock:
            self._stage_of[number] = STAGE_NAMES.index(stage)
            if (last := min(self._stage_of)) > self._reported:
                self._reported = last
                self._on_progress(STAGE_NAMES[last], seconds)


def wait_until_stopped(servers: list[LatentServer], stopped: threading.Event) -> None:
    """Wait until `stopped` is set; raises ServerError when one of the servers has died."""
    while not stopped.wait(POLL):
        for server in servers:
            server.check()
