"""`covt rl` while its server, its ranks or both are killed: each prompt of the epoch is trained on exactly once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory):
    """The module of the benchmark, which does more moments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        import faults_training

        yield faults_training


@pytest.fixture(scope="module")
def undisturbed(training, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The reward of each step where nothing is killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    counts = training.run(tiny_checkpoint, [], folder, print, STEPS)
    assert counts.clean, counts
    return rewards(training, folder)


def rewards(training, folder: Path) -> list[float]:
    return [line["reward"] for line in training.metrics(folder / "rl")]


@pytest.mark.parametrize(("seed", "whom"), [(5, "rank 1"), (6, "server"), (9, "both")])
def test_every_prompt_is_trained_on_once(
    training, undisturbed: list[float], tiny_checkpoint: Path, tmp_path: Path, seed: int, whom: str
) -> None:
    """One moment a seed; `benchmarks/faults.py --training` does more."""
    fault = training.Fault.draw(random.Random(seed))
    assert fault.whom == whom
    counts = training.run(tiny_checkpoint, [fault], tmp_path, print, STEPS)
    assert counts.rounds == 1
    assert counts.clean, counts
    assert (counts.resumes > 0) == (whom != "server")
    assert len(undisturbed) == len(rewards(training, tmp_path)) == STEPS
    if whom == "rank 1":
        assert rewards(training, tmp_path) == undisturbed
