"""Runs one command as a child that can't outlive the process that asked for it.

`LatentServer` starts it as `python supervisor.py LEASE_FD COMMAND…`. LEASE_FD is the read end of a pipe whose write end
only the trainer holds. It reaches end of file when the trainer closes it or dies in any way, SIGKILL included. At that
moment, on SIGTERM, and when the command ends by itself, the supervisor ends all processes that the command left, first
with SIGTERM and then with SIGKILL, and removes their shared memory. A death signal (`PR_SET_PDEATHSIG`) in the
trainer's child would not be enough: it fires when the *thread* that started the child ends, and it doesn't reach
grandchildren. Imports nothing outside the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

GRACE = 5.0
# Seconds between two looks at the shared memory that the server has mapped.
POLL = 5.0
SHARED_MEMORY = "/dev/shm/"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main(lease: int, command: list[str]) -> int:
    """Run `command` until it or the lease ends; returns its exit status (the negative number of a signal)."""
    libc = ctypes.CDLL(None)
    # Orphaned grandchildren become our children, so that `descendants` still finds them.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, notify = os.pipe()
    os.set_blocking(notify, False)
    signal.set_wakeup_fd(notify, warn_on_full_buffer=False)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda *_: None)
    child = subprocess.Popen(
        command,
        start_new_session=True,
        # If the supervisor itself is killed, the kernel still sends SIGTERM to the child, which then ends its own.
        preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )
    ended = os.pidfd_open(child.pid)
    memory: set[str] = set()
    while not select.select([lease, wake, ended], [], [], POLL)[0]:
        memory |= shared_memory(descendants(os.getpid()))
    memory |= shared_memory(descendants(os.getpid()))
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        select.select([ended], [], [], GRACE)
    _kill_all_below()
    for name in memory - shared_memory(processes()):
        with contextlib.suppress(FileNotFoundError):
            Path(SHARED_MEMORY, name).unlink()
    return child.wait()


def shared_memory(pids: Iterable[int]) -> set[str]:
    """Names of the segments that processes have mapped: files directly in /dev/shm, unlike a trainer's folders.

    They are found by inode, since a semaphore is mapped under a temporary name.
    """
    inodes: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                fields, found, name = line.partition(SHARED_MEMORY)
                if found and "/" not in name:
                    inodes.add(int(fields.split()[4]))
    names: set[str] = set()
    for entry in os.scandir(SHARED_MEMORY):
        with contextlib.suppress(FileNotFoundError):
            if entry.inode() in inodes and entry.is_file():
                names.add(entry.name)
    return names


def processes() -> list[int]:
    """Ids of all processes of the machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _kill_all_below() -> None:
    """SIGKILL everything below this process until nothing is left."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def descendants(root: int) -> list[int]:
    """Live processes below `root`, parents first; zombies are left out."""
    children: dict[int, list[int]] = {}
    for pid in processes():
        if (found := _parent_and_session(pid)) is not None:
            children.setdefault(found[0], []).append(pid)
    found_below: list[int] = []
    level = [root]
    while level:
        level = [child for pid in level for child in children.get(pid, [])]
        found_below += level
    return found_below


def session_members(sessions: Collection[int]) -> list[int]:
    """Live processes of these sessions, by which a killed supervisor's server is found."""
    found = ((pid, _parent_and_session(pid)) for pid in processes())
    return [pid for pid, ids in found if ids is not None and ids[1] in sessions]


def _parent_and_session(pid: int) -> tuple[int, int] | None:
    """None when the process is gone or a zombie."""
    with contextlib.suppress(OSError):
        # The command name is in parentheses and may hold anything; state, parent, group and session follow it.
        state, parent, _, session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
        if state != "Z":
            return int(parent), int(session)
    return None


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]) & 0xFF)
