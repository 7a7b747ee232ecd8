"""Worker processes for computer algebra, killed at the time limit and replaced.

math-verify's own timeouts are signals: they need the main thread and cannot interrupt a long step of C code. Here the
parent waits on a pipe, and what is not answered in time is killed, memory and all. A worker is a plain child process
that reads one JSON line and answers with one; no code is ever sent to it.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

_START_SECONDS = 120.0
"""How long a worker may take to import sympy, on a busy machine; not counted against an answer's limit."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer equals the gold answer, and why not."""

    equal: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts in the answers' order; `gold_problem` says why there are none."""

    items: tuple[Verdict, ...]
    gold_problem: str = ""


class WorkerDiedError(Exception):
    """The worker ended or did not answer in time; it has been killed."""


class _Worker:
    """One child process. Used by one thread at a time."""

    def __init__(self) -> None:
        # The child ends by itself when its standard input closes: also when this process is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "covt_rewards.accuracy.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._rest = b""
        self.started = time.monotonic()
        self.requests = 0
        self.owner = os.getpid()
        try:
            self._read(_START_SECONDS)
        except WorkerDiedError as error:
            raise RuntimeError("the algebra worker did not start; is math-verify installed?") from error

    def ask(self, request: dict[str, object], seconds: float) -> dict[str, object]:
        """Send a request and wait for its answer; kills the process and raises `WorkerDiedError` after `seconds`."""
        self.requests += 1
        deadline = time.monotonic() + seconds
        self._write(json.dumps(request).encode() + b"\n", deadline)
        return cast("dict[str, object]", json.loads(self._read(deadline - time.monotonic())))

    def _write(self, data: bytes, deadline: float) -> None:
        assert self._process.stdin is not None
        descriptor = self._process.stdin.fileno()
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise WorkerDiedError
            try:
                # At most one pipe buffer page at a time, so that a ready pipe never blocks.
                view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
            except BrokenPipeError as error:
                self.kill()
                raise WorkerDiedError from error

    def _read(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(descriptor, 1 << 16) if ready else b""
            if not chunk:
                self.kill()
                raise WorkerDiedError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        """End the process now and reap it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


class WorkerPool:
    """Up to `size` workers, started when first needed, shared by threads.

    Attributes:
        killed: workers killed because of an answer that took too long.
    """

    recycle_after = 20_000
    """Requests after which a worker is replaced: sympy's caches only grow."""

    def __init__(self, size: int) -> None:
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._slots.put(None)
        self._size = size
        self._lock = threading.Lock()
        self._read: set[str] = set()  # gold answers known to be readable
        self.killed = 0

    def verify(self, gold: str, answers: Sequence[str], seconds: float, precision: int = 6) -> Verdicts:
        """Compare each answer with the gold answer, `seconds` for each; never raises for what an answer holds.

        Equal answers are compared once.
        """
        late = Verdict(False, f"not decided within {seconds:g} s; stopped")
        verdicts: dict[str, Verdict] = {}
        for answer in dict.fromkeys(answers):
            reply = self._ask({"gold": gold, "precision": precision, "answer": answer}, seconds)
            problem = str(reply.get("gold_problem", "")) if reply else ""
            if reply is None and gold not in self._read:  # is it late by the gold answer's fault?
                problem = self.gold_problem(gold, seconds)
            if problem:
                return Verdicts((), problem)
            self._remember(gold)
            verdicts[answer] = Verdict(bool(reply["equal"]), str(reply["reason"])) if reply else late
        return Verdicts(tuple(verdicts[answer] for answer in answers))

    def gold_problem(self, gold: str, seconds: float) -> str:
        """Why the gold answer cannot be read; empty when it can."""
        reply = self._ask({"gold": gold}, seconds)
        return str(reply.get("gold_problem", "")) if reply else f"reading it takes more than {seconds:g} s"

    def _remember(self, gold: str) -> None:
        with self._lock:
            if len(self._read) >= 4096:
                self._read.clear()
            self._read.add(gold)

    def _ask(self, request: dict[str, object], seconds: float) -> dict[str, object] | None:
        """One request on some worker; None when it had to be killed."""
        worker = self._take()
        kept: _Worker | None = None
        try:
            reply = worker.ask(request, seconds)
            kept = worker
            return reply
        except WorkerDiedError:
            with self._lock:
                self.killed += 1
            return None
        finally:
            if kept is None:  # also on Ctrl-C: a late reply must not be taken for the next request's
                worker.kill()
            self._slots.put(kept)

    def _take(self) -> _Worker:
        worker = self._slots.get()
        try:
            if worker is not None and worker.requests >= self.recycle_after:
                worker.kill()
                worker = None
            return worker or _Worker()
        except BaseException:
            self._slots.put(None)
            raise

    def close(self) -> None:
        """Kill the idle workers; those in use end with this process."""
        for _ in range(self._size):
            try:
                worker = self._slots.get_nowait()
            except queue.Empty:
                return
            if worker is not None and worker.owner == os.getpid():
                worker.kill()
            self._slots.put(None)


@cache
def _pool_of(process: int) -> WorkerPool:
    pool = WorkerPool(max(1, min(8, os.cpu_count() or 1)))
    atexit.register(pool.close)
    return pool


def shared_pool() -> WorkerPool:
    """This process's pool; a forked child gets its own, since pipes cannot be shared."""
    return _pool_of(os.getpid())
