"""Start the worker processes of a training and run functions in them.

`launch` runs one job. `WorkerGroup` keeps its processes, so that several trainings import torch and DeepSpeed only
once. Processes that torchrun, deepspeed, accelerate or srun started run the function themselves.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from covt_runtime.launch.distributed import COLLECTIVE_MINUTES, Event, join_group, leave_group
from covt_runtime.launch.worker_process import resolve_target
from covt_runtime.process_environment import launched_from_outside, visible_gpus
from covt_runtime.runtime_errors import LaunchError, WorkerUserError

CPU_RANKS = 2
LOG_TAIL_LINES = 15
FAILURE_GRACE_SECONDS = 1.0
"""How long to wait for the other ranks' messages after the first failure. A rank that only lost its connection may be
reported before the rank that failed."""

OnEvent = Callable[[Event], None]


class _Rank:
    """One worker process seen from the parent."""

    def __init__(self, rank: int, process: subprocess.Popen[bytes], events: int, log: Path) -> None:
        self.rank = rank
        self.process = process
        self.events = events
        self.log = log
        self._pending = b""

    def send(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return  # The process is dead, which the end of its event pipe will report.

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived; None where the process is gone."""
        data = os.read(self.events, 1 << 16)
        if not data:
            return None
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                return  # The process died before it read a command.

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_TAIL_LINES:])


class WorkerGroup:
    """Worker processes, one per rank, that run functions `target(payload, worker)` one after another.

    Use it as a context manager. An error in a job ends the group, because other ranks may be waiting for the failed
    rank.

    Args:
        ranks: number of processes; None means one per GPU, or two on a CPU.
        log_dir: folder for each rank's output, `rank_N.log`.
        env: added to the workers' environment.
        preload: modules to import while the workers start.
        collective_minutes: how long a rank waits for the others in a collective.
    """

    def __init__(
        self,
        ranks: int | None = None,
        *,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
        preload: Sequence[str] = ("deepspeed",),
        collective_minutes: float = COLLECTIVE_MINUTES,
    ) -> None:
        self.ranks = ranks or visible_gpus() or CPU_RANKS
        self.log_dir = Path(log_dir)
        self._env = dict(env or {})
        self._preload = tuple(preload)
        self._collective_minutes = collective_minutes
        self._workers: list[_Rank] = []
        self._ready = False
        self._rendezvous: Path | None = None

    def start(self) -> None:
        """Start the processes; they import in the background until the first `run`."""
        if self._workers:
            return
        gpus = visible_gpus({**os.environ, **self._env})
        if gpus and self.ranks > gpus:
            raise LaunchError(
                f"{self.ranks} ranks need as many GPUs, but {gpus} are visible",
                f"set run.ranks to at most {gpus}, or set DS_ACCELERATOR=cpu to train on the CPU",
            )
        self.log_dir.mkdir(parents=True, exist_ok=True)
        self._rendezvous = Path(tempfile.mkdtemp(prefix="covt-ranks-"))
        try:
            for rank in range(self.ranks):
                self._workers.append(self._start_rank(rank, on_gpu=gpus > 0))
        except BaseException:
            self.close()
            raise

    def _start_rank(self, rank: int, on_gpu: bool) -> _Rank:
        env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", **self._env}
        env.setdefault("DS_ACCELERATOR", "cuda" if on_gpu else "cpu")
        if not on_gpu:
            # With two threads per rank, a busy machine is up to ten times slower.
            env["OMP_NUM_THREADS"] = self._env.get("OMP_NUM_THREADS", "1")
            env.setdefault("GLOO_SOCKET_IFNAME", "lo")
            # Nothing is compiled on a CPU. Otherwise DeepSpeed spends two seconds on functions it never calls.
            env.setdefault("TORCHDYNAMO_DISABLE", "1")
        env.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(self.ranks),
            COVT_LOG_DIR=str(self.log_dir),
            # A file needs no port, which another process could take first.
            COVT_INIT_METHOD=f"file://{self._rendezvous}/store",
            COVT_PRELOAD=",".join(("torch", *self._preload)),
            COVT_COLLECTIVE_MINUTES=str(self._collective_minutes),
        )
        log = self.log_dir / f"rank_{rank}.log"
        read_end, write_end = os.pipe()
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "covt_runtime.launch.worker_process", str(write_end)],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write_end,),
                    env=env,
                    process_group=0,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        return _Rank(rank, process, read_end, log)

    def run(self, target: str, payload: dict[str, Any], on_event: OnEvent | None = None) -> Any:
        """Run a function on every rank.

        Args:
            target: "pkg.module:function", called as `function(payload, worker)`.
            payload: JSON-able.
            on_event: called with each event of rank 0.

        Returns:
            Rank 0's result, which is JSON-able.

        Raises:
            WorkerUserError: a user error inside a worker.
            LaunchError: a worker crashed.
        """
        self.start()
        try:
            if not self._ready:
                self._collect("ready", on_event)
                self._ready = True
            for worker in self._workers:
                worker.send({"target": target, "payload": payload})
            return self._collect("result", on_event)[0].get("value")
        except BaseException:
            self.close()
            raise

    def _collect(self, kind: str, on_event: OnEvent | None) -> list[dict[str, Any]]:
        """Wait for one message of `kind` from every rank and pass events on; raise where a rank fails."""
        answers: dict[int, dict[str, Any]] = {}
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.events, selectors.EVENT_READ, worker)
            while len(answers) < len(self._workers):
                for key, _ in selector.select():
                    worker: _Rank = key.data
                    messages = worker.read()
                    if messages is None:
                        self._fail(selector, {worker.rank: {"name": "", "message": "", "remedy": None}})
                    for message in messages or ():
                        if message["kind"] == "error":
                            self._fail(selector, {worker.rank: message})
                        elif message["kind"] == "event":
                            if on_event is not None:
                                on_event(message["event"])
                        else:
                            assert message["kind"] == kind, message
                            answers[worker.rank] = message
        return [answers[rank] for rank in range(len(self._workers))]

    def _fail(self, selector: selectors.BaseSelector, failures: dict[int, dict[str, Any]]) -> None:
        """Raise the error that best explains the failure: a user error, else a killed process, else the first error."""
        end = time.monotonic() + FAILURE_GRACE_SECONDS
        while (left := end - time.monotonic()) > 0 and len(failures) < len(self._workers):
            for key, _ in selector.select(left):
                worker: _Rank = key.data
                messages = worker.read()
                if messages is None:
                    selector.unregister(worker.events)
                    failures.setdefault(worker.rank, {"name": "", "message": "", "remedy": None})
                for message in messages or ():
                    if message["kind"] == "error":
                        failures[worker.rank] = message
        for failure in failures.values():
            if failure["remedy"] is not None:
                raise WorkerUserError(failure["message"], failure["remedy"], kind=failure["name"])
        killed = [rank for rank, failure in failures.items() if not failure["name"]]
        rank = (killed or list(failures))[0]
        worker = self._workers[rank]
        raise LaunchError(self._describe(worker, failures[rank]), f"read {worker.log} for what happened before")

    @staticmethod
    def _describe(worker: _Rank, failure: dict[str, Any]) -> str:
        if failure["name"]:
            what = f"raised {failure['name']}: {failure['message']}"
        else:
            code = worker.process.wait()
            hint = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
            what = f"was killed by {signal.Signals(-code).name}{hint}" if code < 0 else f"exited with status {code}"
        return f"rank {worker.rank} {what}\n{worker.tail()}".rstrip()

    def close(self) -> None:
        """Kill all workers and remove their rendezvous."""
        for worker in self._workers:
            worker.kill()
            os.close(worker.events)
        self._workers = []
        self._ready = False
        if self._rendezvous is not None:
            shutil.rmtree(self._rendezvous, ignore_errors=True)
            self._rendezvous = None

    def __enter__(self) -> WorkerGroup:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def launch(
    target: str,
    payload: dict[str, Any],
    *,
    ranks: int | None = None,
    log_dir: Path,
    env: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
    gpu: int | None = None,
    collective_minutes: float = COLLECTIVE_MINUTES,
) -> Any:
    """Run `target(payload, worker)` on every rank.

    In a process that torchrun, deepspeed, accelerate or srun started, the function runs in this process, as its rank.

    Args:
        target: "pkg.module:function".
        payload: JSON-able.
        ranks: as in `WorkerGroup`; another launcher decides them itself.
        log_dir: as in `WorkerGroup`.
        env: as in `WorkerGroup`.
        on_event: called with each event of rank 0.
        gpu: this rank's GPU under another launcher; None takes the local rank.
        collective_minutes: as in `WorkerGroup`.

    Returns:
        Rank 0's result; None on the other ranks of another launcher.
    """
    if launched_from_outside():
        atexit.unregister(leave_group)
        emit = on_event or (lambda event: None)
        worker = join_group(log_dir=Path(log_dir), emit=emit, timeout_minutes=collective_minutes, gpu=gpu)
        result = resolve_target(target)(payload, worker)
        # Only after a success: destroying an NCCL group may wait for a dead rank.
        atexit.register(leave_group)
        return result if worker.is_main else None
    with WorkerGroup(ranks, log_dir=log_dir, env=env, collective_minutes=collective_minutes) as group:
        return group.run(target, payload, on_event)
