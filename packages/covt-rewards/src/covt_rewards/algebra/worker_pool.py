"""A pool of worker processes for computer algebra, with a hard limit on the time of each answer."""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from covt_rewards.algebra.algebra_worker import AlgebraWorker


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an answer equals the gold answer, and why not."""

    equal: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts in the answers' order, or none and the reason why the gold answer cannot be read (`gold_problem`)."""

    items: tuple[Verdict, ...]
    gold_problem: str = ""


class WorkerPool:
    """Up to `size` workers, started when first needed and shared by threads.

    Attributes:
        killed: children killed over an answer or gold answer that took too long, and children that crashed on one.
    """

    recycle_after = 20_000
    """Requests after which a child is replaced, because sympy's caches only grow."""

    def __init__(self, size: int) -> None:
        self._slots: queue.LifoQueue[AlgebraWorker | None] = queue.LifoQueue()
        for _ in range(size):
            self._slots.put(None)
        self._size = size
        self._lock = threading.Lock()
        self._read: set[str] = set()  # gold answers that are known to be readable
        self.killed = 0

    def verify(self, gold: str, answers: Sequence[str], seconds: float, precision: int = 6) -> Verdicts:
        """Compare each answer with the gold answer; never raises for the content of an answer.

        Equal answers are compared once.

        Args:
            gold: the gold answer as math-verify reads it.
            answers: texts with one answer each.
            seconds: limit for reading the gold answer, and again for each comparison.
            precision: decimals to which numbers must agree.
        """
        with self._borrow_worker() as worker:
            problem = self._find_gold_problem(worker, gold, seconds)
            if problem:
                return Verdicts((), problem)
            verdicts = {
                answer: self._compare(worker, {"gold": gold, "precision": precision, "answer": answer}, seconds)
                for answer in dict.fromkeys(answers)
            }
        return Verdicts(tuple(verdicts[answer] for answer in answers))

    def find_gold_problem(self, gold: str, seconds: float) -> str:
        """Say why the gold answer cannot be read; empty when it can."""
        with self._borrow_worker() as worker:
            return self._find_gold_problem(worker, gold, seconds)

    def _find_gold_problem(self, worker: AlgebraWorker, gold: str, seconds: float) -> str:
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

    def _compare(self, worker: AlgebraWorker, request: dict[str, object], seconds: float) -> Verdict:
        reply = self._ask(worker, request, seconds)
        if "late" in reply:
            return Verdict(False, f"not decided within {seconds:g} s; stopped")
        if "crashed" in reply:
            return Verdict(False, "math-verify crashed on it")
        return Verdict(bool(reply["equal"]), str(reply["reason"]))

    def _ask(self, worker: AlgebraWorker, request: dict[str, object], seconds: float) -> dict[str, object]:
        if worker.requests >= self.recycle_after:
            worker.renew()
        reply = worker.ask(request, seconds)
        if "late" in reply or "crashed" in reply:
            with self._lock:
                self.killed += 1
        return reply

    @contextmanager
    def _borrow_worker(self) -> Generator[AlgebraWorker]:
        """Borrow a worker. An exception such as Ctrl-C kills it: its late reply would be taken for the next one."""
        worker = self._slots.get()
        kept: AlgebraWorker | None = None
        try:
            worker = worker or AlgebraWorker()
            yield worker
            kept = worker
        finally:
            if kept is None and worker is not None:
                worker.kill()
            self._slots.put(kept)

    def close(self) -> None:
        """Kill the idle workers; workers in use end with this process."""
        for _ in range(self._size):
            try:
                worker = self._slots.get_nowait()
            except queue.Empty:
                return
            if worker is not None and worker.owner == os.getpid():
                worker.kill()
            self._slots.put(None)


@cache
def _make_pool(process: int) -> WorkerPool:
    pool = WorkerPool(max(1, min(8, os.cpu_count() or 1)))
    atexit.register(pool.close)
    return pool


def shared_pool() -> WorkerPool:
    """Return this process's pool; a forked child gets its own, since pipes cannot be shared."""
    return _make_pool(os.getpid())
