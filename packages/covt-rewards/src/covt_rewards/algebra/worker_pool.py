"""Worker processes for computer algebra: what is not answered in time is ended, memory and all.

math-verify's own timeouts are signals: they need the main thread and cannot interrupt a long step of C code. Here the
parent waits on a pipe. A worker is a plain child process (`worker_main.py`) that reads one JSON line and answers with
one; no code is ever sent to it. It does the work in a fork of itself, so that ending that costs milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import cast

_START_SECONDS = 120.0
"""How long a worker may take to import sympy, on a busy machine; not counted against an answer's limit."""

_RENEW_SECONDS = 20.0
"""How long it may take to fork; a worker that needs longer is replaced as a whole."""


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


class _WorkerGoneError(Exception):
    """The worker's process has ended as a whole."""


class _Worker:
    """One worker process and its pipes. Used by one thread at a time.

    Attributes:
        requests: answered since its child was forked.
        owner: the process that started it.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._start()

    def _start(self) -> None:
        control, self._control = os.pipe()
        # The worker ends by itself when this process does: also when it is killed.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "covt_rewards.algebra.worker_main", str(control)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(control,),
            start_new_session=True,  # Ctrl-C is the parent's to handle; and one signal ends worker and child
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        os.close(control)
        self._rest = b""
        self._killed = False
        try:
            self._await_child(_START_SECONDS)
        except (_WorkerGoneError, TimeoutError) as error:
            self.kill()
            raise RuntimeError("the algebra worker did not start; is math-verify installed?") from error

    def ask(self, request: dict[str, object], seconds: float) -> dict[str, object]:
        """The reply; `{"late": true}` after `seconds`, `{"crashed": true}` when the child died of it.

        Both leave a new child. A request is sent once more when the child dies: that may have happened before.
        """
        self.requests += 1
        deadline = time.monotonic() + seconds
        line = json.dumps(request).encode() + b"\n"
        for _ in range(2):
            try:
                self._write(line, deadline)
                reply = self._next(deadline)
            except TimeoutError:
                self.renew()
                return {"late": True}
            except _WorkerGoneError:
                self._replace()
                continue
            if "ready" not in reply:
                return reply
            self.renew()
        return {"crashed": True}

    def renew(self) -> None:
        """End what the worker does and have it fork a new child."""
        try:
            os.write(self._control, b"x")
            self._await_child(_RENEW_SECONDS)
        except (BrokenPipeError, _WorkerGoneError, TimeoutError):
            self._replace()

    def _replace(self) -> None:
        self.kill()
        self._start()

    def _await_child(self, seconds: float) -> None:
        """Read on until the child that was asked for says it is ready."""
        deadline = time.monotonic() + seconds
        while not self._next(deadline).get("asked"):
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
                # At most one pipe buffer page at a time, so that a ready pipe never blocks.
                view = view[os.write(descriptor, view[: select.PIPE_BUF]) :]
            except BrokenPipeError as error:
                raise _WorkerGoneError from error

    def _next(self, deadline: float) -> dict[str, object]:
        """The next line that is whole: a child that was ended may have left half of one."""
        while True:
            try:
                return cast("dict[str, object]", json.loads(self._line(deadline)))
            except json.JSONDecodeError:
                continue

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise _WorkerGoneError
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def kill(self) -> None:
        """End worker and child now, and reap; once, for another process may have the number by then."""
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


class WorkerPool:
    """Up to `size` workers, started when first needed, shared by threads.

    Attributes:
        killed: children killed because of an answer or gold answer that took too long, and those that crashed on one.
    """

    recycle_after = 20_000
    """Requests after which a child is replaced: sympy's caches only grow."""

    def __init__(self, size: int) -> None:
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(size):
            self._slots.put(None)
        self._size = size
        self._lock = threading.Lock()
        self._read: set[str] = set()  # gold answers known to be readable
        self.killed = 0

    def verify(self, gold: str, answers: Sequence[str], seconds: float, precision: int = 6) -> Verdicts:
        """Compare each answer with the gold answer; never raises for what an answer holds.

        Equal answers are compared once. Reading the gold answer and each comparison have `seconds` of their own.
        """
        with self._worker() as worker:
            problem = self._gold_problem(worker, gold, seconds)
            if problem:
                return Verdicts((), problem)
            verdicts = {
                answer: self._compare(worker, {"gold": gold, "precision": precision, "answer": answer}, seconds)
                for answer in dict.fromkeys(answers)
            }
        return Verdicts(tuple(verdicts[answer] for answer in answers))

    def gold_problem(self, gold: str, seconds: float) -> str:
        """Why the gold answer cannot be read; empty when it can."""
        with self._worker() as worker:
            return self._gold_problem(worker, gold, seconds)

    def _gold_problem(self, worker: _Worker, gold: str, seconds: float) -> str:
        if gold in self._read:
            return ""
        reply = self._ask(worker, {"gold": gold}, seconds)
        if "late" in reply:
            return f"reading it takes more than {seconds:g} s"
        problem = "math-verify crashed" if "crashed" in reply else str(reply.get("gold_problem", ""))
        if not problem:
            with self._lock:
                if len(self._read) >= 4096:
                    self._read.clear()
                self._read.add(gold)
        return problem

    def _compare(self, worker: _Worker, request: dict[str, object], seconds: float) -> Verdict:
        reply = self._ask(worker, request, seconds)
        if "late" in reply:
            return Verdict(False, f"not decided within {seconds:g} s; stopped")
        if "crashed" in reply:
            return Verdict(False, "math-verify crashed on it")
        return Verdict(bool(reply["equal"]), str(reply["reason"]))

    def _ask(self, worker: _Worker, request: dict[str, object], seconds: float) -> dict[str, object]:
        if worker.requests >= self.recycle_after:
            worker.renew()
        reply = worker.ask(request, seconds)
        if "late" in reply or "crashed" in reply:
            with self._lock:
                self.killed += 1
        return reply

    @contextmanager
    def _worker(self) -> Generator[_Worker]:
        """A worker of one's own; killed on an exception such as Ctrl-C, or a late reply would be taken for the next."""
        worker = self._slots.get()
        kept: _Worker | None = None
        try:
            worker = worker or _Worker()
            yield worker
            kept = worker
        finally:
            if kept is None and worker is not None:
                worker.kill()
            self._slots.put(kept)

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
