"""How long ranks wait for each other is a setting: too short a time ends the job, a longer one does not."""

from pathlib import Path

import pytest

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import LaunchError

JOBS = {"PYTHONPATH": str(Path(__file__).parent)}
SHORT, LATE = 0.05, 10.0
"""Three seconds in minutes, and seconds."""


def test_a_rank_that_comes_too_late_ends_the_job(tmp_path: Path) -> None:
    with (
        WorkerGroup(2, log_dir=tmp_path, env=JOBS, preload=(), collective_minutes=SHORT) as group,
        pytest.raises(LaunchError, match=r"Timed out|timed out|timeout"),
    ):
        group.run("waiting_jobs:meet", {"late": LATE})


def test_with_time_enough_the_ranks_meet(tmp_path: Path) -> None:
    with WorkerGroup(2, log_dir=tmp_path, env=JOBS, preload=(), collective_minutes=1.0) as group:
        assert group.run("waiting_jobs:meet", {"late": LATE}) >= LATE
