"""Two real gloo ranks under DeepSpeed ZeRO-3 do the arithmetic of one process without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zero_jobs

from covt_runtime.launch import WorkerGroup

JOBS = {"PYTHONPATH": str(Path(__file__).parent)}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerGroup]:
    with WorkerGroup(2, log_dir=tmp_path_factory.mktemp("ranks"), env=JOBS) as group:
        yield group


@pytest.mark.parametrize("zero", [{"gather": "step"}, {"gather": "step", "persistence_threshold": 100}])
def test_two_ranks_give_the_losses_of_one_process(two_ranks: WorkerGroup, zero: dict[str, object]) -> None:
    """Rows of unequal length, accumulated, some parameters used by one rank only and not in every step."""
    ours = two_ranks.run("zero_jobs:train", {"steps": 10, "zero": zero})
    alone = zero_jobs.train_alone(10)
    assert ours == pytest.approx(alone, rel=1e-5)


def test_gathering_by_module_gives_the_same_losses(two_ranks: WorkerGroup) -> None:
    by_step = two_ranks.run("zero_jobs:train", {"steps": 6, "branch": False, "zero": {"gather": "step"}})
    by_module = two_ranks.run("zero_jobs:train", {"steps": 6, "branch": False, "zero": {"gather": "module"}})
    assert by_module == pytest.approx(by_step, rel=1e-6)


def test_between_steps_a_rank_holds_half_of_the_model(two_ranks: WorkerGroup) -> None:
    sizes = two_ranks.run("zero_jobs:shard_sizes", {"steps": 1, "zero": {"gather": "step"}})
    assert sizes["held"] == 0
    assert sizes["whole"] / 2 <= sizes["sharded"] <= sizes["whole"] / 2 + 20


def test_weights_survive_a_full_save_and_the_optimizer_starts_afresh(two_ranks: WorkerGroup, tmp_path: Path) -> None:
    """Phase 2 after a reset equals a new training from the saved weights: nothing of the moments is left."""
    seen = two_ranks.run("zero_jobs:phases", {"steps": 3, "folder": str(tmp_path), "zero": {"gather": "step"}})
    assert seen["moments"] > 0
    assert seen["reset"] == {"lr": pytest.approx(1e-2 / 3), "moments": 0, "step": 3}
    assert seen["second"] == pytest.approx(seen["repeated"], rel=1e-6)
    assert seen["second"][0] < seen["first"][0]


def test_one_group_runs_several_jobs_in_the_same_processes(two_ranks: WorkerGroup) -> None:
    events: list[dict[str, int]] = []
    first = two_ranks.run("zero_jobs:process_ids", {}, events.append)
    second = two_ranks.run("zero_jobs:process_ids", {})
    assert first == second
    assert events == [{"event": "pid", "pid": first["pid"]}]
    os.kill(first["pid"], 0)
