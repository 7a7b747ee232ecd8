"""Keeps a server running: a server that dies or hangs is started again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from covt_rollout.rollout_errors import ServerError
from covt_rollout.server.server_process import LatentServer

OnNote = Callable[[str], None]


class ServerWatchdog:
    """Watches a server from a thread, within a `with` block that is inside the server's own.

    A restarted server has the weights and the version of the checkpoint it was started with. Clients notice, and
    `Publisher.restore` pushes the trainer's weights again.
    """

    def __init__(
        self,
        server: LatentServer,
        *,
        interval: float = 1.0,
        patience: float = 60.0,
        limit: int = 5,
        on_note: OnNote | None = None,
    ) -> None:
        """Prepare to watch; entering the context starts the thread.

        Args:
            server: started before.
            interval: seconds between two checks.
            patience: seconds without any answer from the engine until the server counts as hung.
            limit: restarts, failed ones included, before the server is left as it is.
            on_note: called with a sentence at each restart and when the watchdog gives up.
        """
        self.server, self.interval, self.patience, self.limit = server, interval, patience, limit
        self.restarts = 0
        self._note = on_note or (lambda _text: None)
        self._left = threading.Event()
        self._allowed = threading.Event()
        self._allowed.set()
        self._thread = threading.Thread(target=self._watch, name="server-watch", daemon=True)

    def hold(self) -> None:
        """Restart nothing until `release`, since something else uses the server's GPUs."""
        self._allowed.clear()

    def release(self) -> None:
        """Restart the server again when it dies or hangs."""
        self._allowed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._left.wait(self.interval):
            if not self._allowed.is_set():
                answered = time.monotonic()
                continue
            if self.server.pid is not None:
                if self.server.responds(min(10.0, self.patience)):
                    answered = time.monotonic()
                if time.monotonic() - answered < self.patience:
                    continue
                reason = f"has not answered for {self.patience:.0f} s"
            else:
                reason = "has died"
            if self.restarts == self.limit:
                self._note(f"the rollout server {reason} after {self.limit} restarts and is not started again")
                return
            self.restarts += 1
            self._note(f"the rollout server {reason}; starting it again ({self.restarts} of {self.limit})")
            try:
                self.server.restart(abandon=self._left.is_set)
            except ServerError as error:
                self._note(f"the rollout server could not be started again: {error}")
            answered = time.monotonic()
