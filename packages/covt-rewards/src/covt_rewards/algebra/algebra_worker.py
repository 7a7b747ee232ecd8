"""One worker process for computer algebra and the pipes to it.

math-verify's own timeouts are signals: they need the main thread and cannot interrupt a long step of C code. Here the
parent waits on a pipe instead. A worker is a plain child process (`worker_main.py`) that reads one line of JSON and
answers with one; it never receives code. It works in a fork of itself, so that stopping that work takes milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import cast

_START_SECONDS = 120.0
"""Limit for importing sympy on a busy machine; it does not count against an answer's limit."""

_RENEW_SECONDS = 20.0
"""Limit for forking a child; a worker that needs longer is replaced."""


class WorkerGoneError(Exception):
    """The worker process itself has ended."""


class AlgebraWorker:
    """One worker process and its pipes; used by one thread at a time.

    Attributes:
        requests: requests answered since its child was forked.
        owner: id of the process that started the worker.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._start()

    def _start(self) -> None:
        control, self._control = os.pipe()
        # The worker ends by itself when this process ends, even by a kill.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "covt_rewards.algebra.worker_main", str(control)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(control,),
            start_new_session=True,  # the parent handles Ctrl-C, and one signal ends worker and child
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        os.close(control)
        self._rest = b""
        self._killed = False
        try:
            self._await_child(_START_SECONDS)
        except (WorkerGoneError, TimeoutError) as error:
            self.kill()
            raise RuntimeError("the algebra worker did not start; is math-verify installed?") from error

    def ask(self, request: dict[str, object], seconds: float) -> dict[str, object]:
        """Send a request and wait for its reply.

        A request whose child dies is sent once more, since the child may have died before.

        Args:
            request: sent as a line of JSON, see `worker_main.py`.
            seconds: limit for the reply.

        Returns:
            The reply; `{"late": true}` after `seconds`; `{"crashed": true}` when the request kills its child. In the
            last two cases the worker has a new child.
        """
        self.requests += 1
        deadline = time.monotonic() + seconds
        line = json.dumps(request).encode() + b"\n"
        for _ in range(2):
            try:
                self._write(line, deadline)
                reply = self._read_reply(deadline)
            except TimeoutError:
                self.renew()
                return {"late": True}
            except WorkerGoneError:
                self._replace()
                continue
            if "ready" not in reply:
                return reply
            self.renew()
        return {"crashed": True}

    def renew(self) -> None:
        """Stop the current work and let the worker fork a new child."""
        try:
            os.write(self._control, b"x")
            self._await_child(_RENEW_SECONDS)
        except (BrokenPipeError, WorkerGoneError, TimeoutError):
            self._replace()

    def _replace(self) -> None:
        self.kill()
        self._start()

    def _await_child(self, seconds: float) -> None:
        """Read until the requested child reports that it is ready."""
        deadline = time.monotonic() + seconds
        while not self._read_reply(deadline).get("asked"):
            pass
        self.requests = 0

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            try:
                # Write at most PIPE_BUF bytes at a time, so that a ready pipe never blocks.
                view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
            except BrokenPipeError as error:
                raise WorkerGoneError from error

    def _read_reply(self, deadline: float) -> dict[str, object]:
        """Read the next complete line; a stopped child may have left half of one."""
        while True:
            try:
                return cast("dict[str, object]", json.loads(self._read_line(deadline)))
            except json.JSONDecodeError:
                continue

    def _read_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise WorkerGoneError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        """Kill and reap worker and child; only once, because another process may have the id by then."""
        if self._killed:
            return
        self._killed = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._control)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
