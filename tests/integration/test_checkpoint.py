"""Checkpoints of two real ranks: resuming is exact, whatever was interrupted or damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zero_jobs
from zero_jobs import JOBS

from covt_runtime import files
from covt_runtime.checkpoints.shard_files import consolidate
from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import CheckpointError, LaunchError, WorkerUserError

JOB = "zero_jobs:train_and_save"
SETTINGS = {"steps": 9, "every": 3, "dropout": 0.2, "zero": {"gather": "step"}}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two_ranks(logs: Path) -> Iterator[WorkerGroup]:
    with WorkerGroup(2, log_dir=logs, env=JOBS) as group:
        yield group


@pytest.fixture(scope="module")
def uninterrupted(two_ranks: WorkerGroup, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Nine steps in one go, and their checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    return two_ranks.run(JOB, {**SETTINGS, "folder": str(folder), "keep": 3, "best": 3}), folder


def test_a_killed_training_resumes_with_the_same_losses_to_the_last_bit(
    uninterrupted: tuple[dict[str, Any], Path], logs: Path, tmp_path: Path
) -> None:
    whole, _ = uninterrupted
    with pytest.raises(LaunchError, match="killed"), WorkerGroup(2, log_dir=logs / "killed", env=JOBS) as group:
        group.run(JOB, {**SETTINGS, "folder": str(tmp_path), "kill_at": 7})
    with WorkerGroup(2, log_dir=logs / "resumed", env=JOBS) as group:
        resumed = group.run(JOB, {**SETTINGS, "folder": str(tmp_path)})
    assert resumed["start"] == 6
    assert resumed["losses"] == {step: whole["losses"][step] for step in ("6", "7", "8")}
    assert resumed["whole"] == whole["whole"]
    assert resumed["tensors"]["count"] == 5


def test_a_checkpoint_holds_the_trained_weights_to_be_read_without_ranks(
    uninterrupted: tuple[dict[str, Any], Path],
) -> None:
    whole, folder = uninterrupted
    weights = {name: tensor.tolist() for name, tensor in consolidate(folder / "step_9")}
    assert weights == {name: values for name, values in whole["whole"].items() if not name.startswith("frozen.")}


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone", "half-written"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    two_ranks: WorkerGroup, uninterrupted: tuple[dict[str, Any], Path], tmp_path: Path, harm: str
) -> None:
    whole, folder = uninterrupted
    for step in ("step_6", "step_9"):
        (tmp_path / step).mkdir()
        for file in (folder / step).iterdir():
            (tmp_path / step / file.name).write_bytes(file.read_bytes())
    victim = tmp_path / "step_9" / "rank_1.safetensors"
    content = bytearray(victim.read_bytes())
    if harm == "flipped":
        content[-5] ^= 1
        victim.write_bytes(content)
    elif harm == "cut":
        victim.write_bytes(content[:-100])
    elif harm == "gone":
        victim.unlink()
    else:
        (tmp_path / "step_9" / files.MANIFEST).unlink()
    resumed = two_ranks.run(JOB, {**SETTINGS, "folder": str(tmp_path), "every": 100})
    assert resumed["start"] == 6
    assert "step_9 is damaged" in resumed["notes"][0]
    assert resumed["losses"] == {step: whole["losses"][step] for step in ("6", "7", "8")}
    with pytest.raises(CheckpointError, match="damaged"):
        list(consolidate(tmp_path / "step_9"))


def test_another_number_of_ranks_goes_on_within_tolerance(two_ranks: WorkerGroup, logs: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "dropout": 0.0, "folder": str(tmp_path)}
    whole = two_ranks.run(JOB, {**settings, "every": 4, "keep": 5, "count": False})
    files.remove_folder(tmp_path / "step_8")
    with WorkerGroup(1, log_dir=logs / "one", env=JOBS) as group:
        resumed = group.run(JOB, {**settings, "every": 100})
    assert resumed["start"] == 4
    assert "written by 2 ranks and is read by 1" in resumed["notes"][0]
    assert len(resumed["tensors"]["ema/norm.weight"]) == zero_jobs.HIDDEN
    for step in ("4", "5", "6", "7", "8"):
        assert math.isclose(resumed["losses"][step], whole["losses"][step], rel_tol=1e-5)


def test_one_ranks_own_tensor_is_not_given_to_another_number_of_ranks(
    uninterrupted: tuple[dict[str, Any], Path], logs: Path
) -> None:
    """The scalar "count" belongs to one of two ranks and can't be cut for one."""
    _, folder = uninterrupted
    with pytest.raises(WorkerUserError, match="count") as error, WorkerGroup(1, log_dir=logs / "1", env=JOBS) as group:
        group.run(JOB, {**SETTINGS, "folder": str(folder)})
    assert "2 ranks" in error.value.remedy


def test_old_checkpoints_go_and_the_best_stays(two_ranks: WorkerGroup, tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": 4, "every": 1, "keep": 1, "best": 2, "folder": str(tmp_path)}
    two_ranks.run(JOB, settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "latest", "step_2", "step_4"]
    assert (tmp_path / "latest").read_text() == "step_4"
    assert json.loads((tmp_path / "step_4" / "state.json").read_text())["extra"] == {"next": 4}


def test_a_full_disk_is_said_and_leaves_the_earlier_checkpoint(logs: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the kernel refuses the bytes, in the middle of the file."""
    with WorkerGroup(2, log_dir=logs / "full", env=JOBS) as group:
        group.run(JOB, {**SETTINGS, "steps": 3, "folder": str(tmp_path)})
        with pytest.raises(WorkerUserError, match="can't write") as error:
            group.run(JOB, {**SETTINGS, "steps": 6, "folder": str(tmp_path), "file_limit": 2000})
    assert "space" in error.value.remedy
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["latest", "step_3"]


def test_a_checkpoint_of_another_model_is_refused(logs: Path, tmp_path: Path) -> None:
    with WorkerGroup(2, log_dir=logs / "other", env=JOBS) as group:
        group.run(JOB, {**SETTINGS, "steps": 1, "every": 1, "folder": str(tmp_path)})
        with pytest.raises(WorkerUserError, match="another model") as error:
            group.run(JOB, {**SETTINGS, "hidden": 8, "folder": str(tmp_path)})
    assert "recipe" in error.value.remedy
