"""The processes that the phases share: two training ranks and one vLLM server, started together in the background."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.metrics.progress import Progress


class Machine:
    """Starts workers and server while other phases run, and ends both with the block."""

    def __init__(self, out: Path, model: Path, ranks: int, progress: Progress) -> None:
        self.out = out
        self.model = model
        self.progress = progress
        self.workers = WorkerGroup(ranks, log_dir=out / "logs")
        self._pool = ThreadPoolExecutor(1)
        self._server: Future[Any] | None = None

    def __enter__(self) -> Self:
        self.workers.start()
        self._server = self._pool.submit(self._start_server)
        return self

    def _start_server(self) -> Any:
        from covt_rollout.server.server_process import LatentServer

        return LatentServer.start(self.model, log_path=self.out / "logs" / "server.log")

    def server_url(self) -> str:
        """The server's address, once it answers."""
        assert self._server is not None
        if self._server.done():
            return self._server.result().url
        with self.progress.phase("wait for the vLLM server", unit="s"):
            return self._server.result().url

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.workers.close()
        if self._server is not None:
            self._server.add_done_callback(_stop)
        self._pool.shutdown(wait=True)


def _stop(started: Future[Any]) -> None:
    """End a server that has started; one that could not start has left nothing behind."""
    if started.exception() is None:
        started.result().stop()
