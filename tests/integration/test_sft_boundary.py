"""A training killed at every kind of moment around the boundary of its stages has the losses of one that never was.

Stage 1 ends by its steps, or by its seconds before them. Time is counted in optimizer steps (`interrupted_sft`), so
that the second kind ends at the same step in every run.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from interrupted_sft import ENDED, MOMENT, MOMENTS, TAKEN, environment
from safetensors.torch import load_file
from sft_runs import logged, losses, make_place, run, settings

from covt_runtime.launch.workers import WorkerGroup
from covt_runtime.runtime_errors import LaunchError
from covt_sft.sft_recipe import SftConfig

pytestmark = pytest.mark.slow
PLANNED = {"steps": TAKEN, "seconds": TAKEN}
"""For each way to end stage 1 after `TAKEN` steps, how many steps are planned."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("boundary"))


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory):
    """A rank that is never killed."""
    with WorkerGroup(1, log_dir=tmp_path_factory.mktemp("logs"), env=environment(None)) as group:
        yield group


@pytest.fixture(autouse=True)
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covt_sft.training.train.TARGET", "interrupted_sft:train_interrupted")


def config(place: Path, name: str, ended: str) -> SftConfig:
    stage1 = {"steps": TAKEN} if ended == "steps" else {"steps": 50, "seconds": float(TAKEN)}
    return settings(
        place,
        name,
        latent={"selection": "ilvr", "teacher_decay": 0.9},
        stage1={"noise_input": 0.01, "noise_target": 0.01} | stage1,
        stage2={"steps": 3},
        eval={"rows": 0},
        log={"save_every": 2},
    )


@pytest.fixture(scope="module")
def references(place: Path, steady: WorkerGroup) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("covt_sft.training.train.TARGET", "interrupted_sft:train_interrupted")
        return {ended: run(config(place, f"reference-{ended}", ended), steady) for ended in ENDED}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_stage_that_ends_by_time_gives_the_next_a_fresh_optimizer(references: dict[str, Path]):
    """Warm-up makes the first rate of a stage differ from its later ones; both stages have their own."""
    for ended, folder in references.items():
        phases = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        stages = [line["phase"] for line in phases if "loss" in line]
        assert stages == ["stage1"] * TAKEN + ["stage2"] * 3, ended
    by_steps, by_seconds = (logged(references[ended], "lr") for ended in ("steps", "seconds"))
    assert by_steps[TAKEN:] == by_seconds[TAKEN:]
    assert by_steps[TAKEN] == pytest.approx(1e-3)


@pytest.mark.parametrize("ended", ENDED)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_it_is_the_same_to_the_last_bit(
    place: Path, references: dict[str, Path], steady: WorkerGroup, tmp_path: Path, moment: str, ended: str
):
    name = f"{moment.replace(' ', '-')}-{ended}"
    chosen = config(place, name, ended)
    with (
        pytest.raises(LaunchError, match="killed"),
        WorkerGroup(1, log_dir=tmp_path, env=environment(moment)) as doomed,
    ):
        run(chosen, doomed)
    resumed = run(chosen, steady, resume=True)
    reference = references[ended]
    assert losses(resumed) == losses(reference)
    assert logged(resumed, "lr") == logged(reference, "lr")
    for exported in (Path("hf"), Path("stage1") / "hf"):
        ours, expected = weights(resumed / exported), weights(reference / exported)
        assert all(torch.equal(ours[key], expected[key]) for key in expected), exported


def test_the_variable_that_names_the_moment_is_the_workers_alone():
    assert MOMENT in environment("stage 1 exported")
    assert MOMENT not in environment(None)
