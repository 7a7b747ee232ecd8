"""When one worker fails all end, the parent says why, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from zero_jobs import JOBS

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import LaunchError, WorkerUserError


def group(folder: Path) -> WorkerGroup:
    return WorkerGroup(2, log_dir=folder, env=JOBS, preload=())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


def test_a_user_error_of_any_rank_reaches_the_parent_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(WorkerUserError, match="the setting is wrong") as error, group(tmp_path) as workers:
        workers.run("zero_jobs:fail", {"how": "user"})
    assert error.value.remedy == "set it right"
    assert error.value.kind == "ConfigError"


def test_a_bug_is_reported_with_the_end_of_the_log(tmp_path: Path) -> None:
    expected = r"(?s)rank 1 raised ZeroDivisionError: a bug.*zero_jobs\.py"
    with pytest.raises(LaunchError, match=expected) as error, group(tmp_path) as workers:
        workers.run("zero_jobs:fail", {"how": "bug"})
    assert "rank_1.log" in error.value.remedy


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="rank 1 was killed by SIGKILL"), group(tmp_path) as workers:
        workers.run("zero_jobs:fail", {"how": "kill"})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = (
        "import signal\n"
        "from covt_runtime.launch.workers import WorkerGroup\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        f"with WorkerGroup(2, log_dir={str(tmp_path)!r}, env={JOBS!r}, preload=()) as group:\n"
        f"    group.run('zero_jobs:wait_forever', {{'folder': {str(tmp_path)!r}}}, lambda e: print('on', flush=True))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"on\n"
    end = time.monotonic() + 30
    pids: list[int] = []
    while len(pids) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        pids = [int(text) for path in tmp_path.glob("pid_*") if (text := path.read_text())]
    assert len(pids) == 2
    parent.send_signal(how)
    parent.wait(30)
    parent.stdout.close()
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, pids))
