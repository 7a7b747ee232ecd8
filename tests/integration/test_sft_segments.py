"""Rows of one latent segment don't pay for rows of many: each forward computes the segments of its own rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from segment_jobs import MANY
from sft_runs import make_place, settings

from covt_runtime.launch.workers import WorkerGroup


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("segments"))


def payload(place: Path, gather: str, segments: list[int]) -> dict[str, Any]:
    config = settings(place, gather, zero={"gather": gather}, data={"micro_batch": 1, "batch_size": len(segments)})
    paths = {"run": str(place / "runs" / gather), "data": str(place / "data"), "model": str(place / "model")}
    job = {"config": config.model_dump(mode="json"), "stage1_steps": 0, "stage2_steps": 1, **paths}
    return {"job": job, "segments": segments}


def test_with_whole_parameters_each_rank_computes_what_its_rows_have(place: Path, two_ranks: WorkerGroup):
    """Rank 0 has the first, third, fifth and seventh row."""
    found = two_ranks.run("segment_jobs:segments_computed", payload(place, "step", [1, 1, MANY, 1, 1, 1, 1, 1]))
    assert found["segments"] == [[MANY, 1, 1, 1], [1, 1, 1, 1]]


def test_gathered_by_module_the_ranks_agree_forward_by_forward(place: Path, two_ranks: WorkerGroup):
    """The row of many segments is the third forward on one rank and the second on the other, if in order."""
    segments = [1, 1, 1, MANY, MANY, 1, 1, 1]
    found = two_ranks.run("segment_jobs:segments_computed", payload(place, "module", segments))
    assert found["segments"] == [[MANY, 1, 1, 1]] * 2
    whole = two_ranks.run("segment_jobs:segments_computed", payload(place, "step", segments))
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-5)
