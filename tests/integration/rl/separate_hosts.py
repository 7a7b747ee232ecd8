"""Several hosts on one machine: network namespaces joined by a bridge, each with file systems of its own.

A host sees its own folder as /mnt, an empty /tmp and /dev/shm, and nothing of the others but their addresses. The
installation (Python, packages, this repository) is the same on all of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOME = Path("/mnt")
"""A host's own folder, as the host sees it."""
needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))),
    reason="network namespaces need root, util-linux and iproute2",
)


@dataclass(frozen=True)
class Host:
    """pid: of the process that holds its namespaces. address: its IPv4 address. folder: its `HOME`, from outside."""

    pid: int
    address: str
    folder: Path

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` on this host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", f"--wd={HOME}", *words]

    def environment(self, **more: str) -> dict[str, str]:
        """Variables of a process here: its own temporary files and caches, one thread, no trace of pytest."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVT", "TMP"))}
        caches = {"TMPDIR": "tmp", "HF_HOME": "hf", "XDG_CACHE_HOME": "cache"}
        places = {name: str(HOME / folder) for name, folder in caches.items()}
        places["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
        return kept | places | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} | more

    def start(self, words: Sequence[str], log: Path, **more: str) -> subprocess.Popen[str]:
        """Start a command here; its standard error goes to `log`."""
        with log.open("w") as errors:
            return subprocess.Popen(
                self.command(*words), env=self.environment(**more), stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end, whatever that is."""
        return subprocess.run(
            self.command(*words), env=self.environment(**more), capture_output=True, text=True, timeout=500
        )


@contextmanager
def hosts(folders: Mapping[str, Path]) -> Iterator[dict[str, Host]]:
    """Hosts by name, each with its folder; two may share one, as hosts with a common disk do."""
    with ExitStack() as stack:
        switch = _holder(stack, "--net")
        _inside(switch, "ip link add switch type bridge && ip link set switch up")
        found = {}
        for number, (name, folder) in enumerate(folders.items(), start=1):
            folder.mkdir(exist_ok=True)
            for part in ("tmp", "hf", "cache"):
                (folder / part).mkdir(exist_ok=True)
            pid, address = _holder(stack, "--net", "--mount"), f"10.77.0.{number}"
            _inside(switch, f"ip link add port{number} type veth peer name eth0 netns {pid}")
            _inside(switch, f"ip link set port{number} master switch up")
            _inside(pid, f"ip address add {address}/24 dev eth0 && ip link set eth0 up && ip link set lo up")
            _inside(pid, " && ".join(_mounts(folder)), "--mount")
            found[name] = Host(pid, address, folder)
        yield found


def _mounts(folder: Path) -> Iterator[str]:
    """Commands that make `folder` the host's `HOME` and cover /tmp, except for an installation that lies there."""
    covered = Path("/tmp")
    places = (Path(sys.prefix), ROOT, Path(sys.executable).resolve().parents[1])
    kept = {place: HOME / f"kept-{n}" for n, place in enumerate(places) if covered in place.parents}
    # The folder itself lies below /tmp, so it is bound before /tmp is covered.
    yield f"mount --bind {folder} {HOME}"
    for place, aside in kept.items():
        yield f"mkdir -p {aside} && mount --bind {place} {aside}"
    yield f"mount -t tmpfs none {covered} && mount -t tmpfs none /dev/shm"
    for place, aside in kept.items():
        yield f"mkdir -p {place} && mount --bind {aside} {place} && umount {aside} && rmdir {aside}"


def _holder(stack: ExitStack, *namespaces: str) -> int:
    """A process that keeps new namespaces until the stack ends, and is known to be in them."""
    process = subprocess.Popen(
        ["unshare", *namespaces, "sh", "-c", "echo ready; exec sleep infinity"], stdout=subprocess.PIPE, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process.pid


def _inside(pid: int, script: str, *namespaces: str) -> None:
    subprocess.run(["nsenter", f"--target={pid}", "--net", *namespaces, "sh", "-ec", script], check=True, timeout=30)
