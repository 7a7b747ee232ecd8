"""Peak memory of a command's processes, read from /proc while it runs.

Of a process it is the kernel's own peak of the resident set (VmHWM), which misses nothing between two samples. Of all
processes at once it is the sum of their shares (PSS), which counts a page that several of them use once; what lies in
shared memory is counted besides.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
RANK = "covt_runtime.launch.worker_process"
SERVER = ("vllm", "VLLM::")


@dataclass
class Peaks:
    """The most bytes of one phase: of each process by its role (`rank 0`, `rank 1`, `server`, `main`), and of all.

    anonymous: of all processes at once without pages of files, which the system can take back.
    """

    processes: dict[tuple[str, int], float] = field(default_factory=dict)
    total: float = 0.0
    anonymous: float = 0.0
    seconds: float = 0.0

    @property
    def roles(self) -> dict[str, float]:
        """Bytes by role; the processes of a role are added up, but a rank is one, the fullest."""
        found: dict[str, float] = {}
        for (role, _), size in self.processes.items():
            # When rank 0 has ended, the other ranks are counted from it on.
            before = found.get(role, 0.0)
            found[role] = max(before, size) if role.startswith("rank") else before + size
        return found

    def as_dict(self) -> dict[str, object]:
        """In GiB and seconds, rounded."""
        return {
            "seconds": round(self.seconds, 1),
            "total_gib": round(self.total / GIB, 2),
            "anonymous_gib": round(self.anonymous / GIB, 2),
            **{f"{role} gib": round(size / GIB, 2) for role, size in sorted(self.roles.items())},
        }


class MachineFullError(RuntimeError):
    """The command was ended because the machine had too little memory left."""


class MemoryWatch:
    """Samples the processes below this one until `stop`.

    Args:
        phase: names the phase that a sample belongs to.
        floor: bytes that must stay available on the machine; with less, the command is killed.
        every: seconds between samples.
    """

    def __init__(self, phase: Callable[[], str], floor: float = 0.4 * GIB, every: float = 0.1) -> None:
        self.phases: dict[str, Peaks] = {}
        self.killed = False
        self._phase, self._floor, self._every = phase, floor, every
        self._shared = _used(SHARED_MEMORY)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples.

        Raises:
            MachineFullError: the command was killed.
        """
        self._stop.set()
        self._thread.join()
        if self.killed:
            raise MachineFullError("killed, because the machine had almost no memory left")

    def _run(self) -> None:
        last, current = time.monotonic(), None
        while not self._stop.wait(self._every):
            name = self._phase()
            if name != current:
                current = name
                for pid in descendants(os.getpid()):
                    _forget_peak(pid)
            peaks = self.phases.setdefault(name, Peaks())
            now = time.monotonic()
            peaks.seconds += now - last
            last = now
            self._sample(peaks)
            if _available() < self._floor:
                self.killed = True
                for pid in descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _sample(self, peaks: Peaks) -> None:
        anonymous = files = 0.0
        for role, pid in processes(os.getpid()):
            found = _fields(pid, "smaps_rollup")
            anonymous += found.get("Pss_Anon", 0.0)
            files += found.get("Pss_File", 0.0)
            key = (role, pid)
            peaks.processes[key] = max(peaks.processes.get(key, 0.0), _fields(pid, "status").get("VmHWM", 0.0))
        anonymous += max(0.0, _used(SHARED_MEMORY) - self._shared)
        peaks.total = max(peaks.total, anonymous + files)
        peaks.anonymous = max(peaks.anonymous, anonymous)


def run_watched(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    phase: Callable[[], str] = lambda: "run",
    until: Callable[[], bool] | None = None,
) -> dict[str, Peaks]:
    """Run a command to its end, or kill all of it with SIGKILL as soon as `until` says so.

    Raises:
        MachineFullError: the machine had too little memory left.
        RuntimeError: the command failed; with the end of its log.
    """
    watch = MemoryWatch(phase)
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **(env or {})}, preexec_fn=first_to_die
        )
        watch.start()
        stopped = False
        while process.poll() is None:
            if until is not None and not stopped and until():
                stopped = True
                for pid in descendants(os.getpid()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        watch.stop()
    if process.returncode and not stopped:
        raise RuntimeError(f"{' '.join(command)} failed:\n" + "\n".join(log.read_text().splitlines()[-25:]))
    return watch.phases


def first_to_die() -> None:
    """For `preexec_fn`: should memory run out after all, the system ends this process before any other."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def processes(root: int) -> Iterator[tuple[str, int]]:
    """(role, process) of all processes below `root`."""
    ranks = 0
    for pid in sorted(descendants(root)):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if RANK in command:
            yield f"rank {ranks}", pid
            ranks += 1
        else:
            yield ("server" if any(name in command for name in SERVER) else "main"), pid


def descendants(root: int) -> list[int]:
    """All processes below `root`, without it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(path.name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _fields(pid: int, name: str) -> dict[str, float]:
    """The sizes in one of a process's files, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    pairs = (line.partition(":") for line in lines if line.endswith(" kB"))
    return {name: float(rest.split()[0]) * 1024 for name, _, rest in pairs}


def _forget_peak(pid: int) -> None:
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _used(folder: Path) -> float:
    usage = shutil.disk_usage(folder)
    return float(usage.used)


def _available() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
