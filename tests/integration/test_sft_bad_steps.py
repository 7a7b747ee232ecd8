"""What `data.on_bad` does with steps whose gradient is not finite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sft_runs import STAGE1, logged, losses, make_place, run, settings
from spoiled_sft import environment

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import WorkerUserError

pytestmark = pytest.mark.slow
SECTIONS = {"latent": {"selection": "ilvr", "teacher_decay": 0.9}, "stage2": {"steps": 0}, "eval": {"rows": 0}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("spoiled"))


@pytest.fixture(autouse=True)
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covt_sft.training.train.TARGET", "spoiled_sft:train_spoiled")


@pytest.mark.parametrize("gather", ["step", "module"])
def test_a_skipped_step_leaves_weights_and_teacher_alone(place: Path, tmp_path: Path, gather: str):
    """The losses up to the step are those of an undisturbed run, and the next step computes with the same weights."""
    sections = SECTIONS | {"data": {"on_bad": "skip"}, "zero": {"gather": gather}, "log": {"save_every": 1}}
    with WorkerGroup(2, log_dir=tmp_path, env=environment("2")) as workers:
        folder = run(settings(place, f"skips-{gather}", **sections), workers)
    assert len(losses(folder)) == STAGE1 and None not in losses(folder)
    assert logged(folder, "skipped/steps") == [0, 0, 1, 1, 1, 1]
    assert [norm is None for norm in logged(folder, "grad_norm")] == [False, False, True, False, False, False]
    before, after, later = (
        load_file(folder / "checkpoints" / f"step_{step}" / "rank_0.safetensors") for step in (2, 3, 4)
    )
    kept = [key for key in before if key.startswith(("weight/", "exp_avg", "user/teacher/"))]
    assert any(key.startswith("user/teacher/") for key in kept)
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert not any(torch.equal(after[key], later[key]) for key in kept if "q_proj.weight" in key)


def test_refused_it_names_the_rows_and_the_setting_that_helps(place: Path, tmp_path: Path):
    with (
        WorkerGroup(2, log_dir=tmp_path, env=environment("2")) as workers,
        pytest.raises(WorkerUserError, match="the gradient of step 3 is not finite, with row ") as caught,
    ):
        run(settings(place, "refuses", **SECTIONS), workers)
    assert caught.value.remedy.endswith("data.on_bad=skip")


def test_a_training_that_has_only_such_steps_ends(place: Path, tmp_path: Path):
    """Its remedy doesn't name the setting that is set."""
    with (
        WorkerGroup(2, log_dir=tmp_path, env=environment("all")) as workers,
        pytest.raises(WorkerUserError, match="the gradient of step 10 is not finite") as caught,
    ):
        run(settings(place, "lost", **SECTIONS | {"data": {"on_bad": "skip"}, "stage1": {"steps": 20}}), workers)
    assert "10 steps in a row were left out" in caught.value.remedy
    assert "on_bad" not in caught.value.remedy
