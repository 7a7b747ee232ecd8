"""What must not be left behind: processes that were seen running, and shared memory that is new and nobody's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# Seconds in which what others on the machine hold for a moment goes away, and killed processes with it.
SETTLE = 10.0


class Leftovers:
    """Begins with what is there before the work; `seen` is told of the processes that the work has."""

    def __init__(self) -> None:
        self._memory = {path.name for path in SHARED_MEMORY.iterdir()}
        self._processes: set[tuple[int, int]] = set()

    def seen(self, pids: Iterable[int]) -> None:
        self._processes |= living(pids)

    def count(self) -> tuple[int, int]:
        """Processes and names in shared memory that are still there when the work is over."""
        end = time.monotonic() + SETTLE
        while (self._running() or self._new_memory()) and time.monotonic() < end:
            time.sleep(0.1)
        return len(self._running()), len(self._new_memory())

    def _running(self) -> set[tuple[int, int]]:
        return self._processes & living(pid for pid, _ in self._processes)

    def _new_memory(self) -> set[str]:
        """Names that are new; what other processes of the machine have made meanwhile, they have mapped or named."""
        from covt_rollout.server import supervisor
        from covt_rollout.server.weight_root import PREFIX

        new = {path.name for path in SHARED_MEMORY.iterdir()} - self._memory
        pids = supervisor.processes()
        others = {str(pid) for pid in pids if pid != os.getpid()}
        named = {
            name for name in new if name.startswith(PREFIX) and name.removeprefix(PREFIX).partition("@")[0] in others
        }
        return new - named - supervisor.shared_memory(pids)


def living(pids: Iterable[int]) -> set[tuple[int, int]]:
    """Processes that are neither gone nor zombies, each with its time of start, since ids are used again."""
    found = set()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found.add((pid, int(fields[19])))
    return found
