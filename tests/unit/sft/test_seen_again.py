"""Whether features of images are kept from step to step: only where rows come again."""

from pathlib import Path
from typing import Any

import pytest

from covt_data.ingest.prepare import prepare
from covt_sft.planning.plan import sees_images_again, training_stream
from covt_sft.sft_recipe import SftConfig

ROWS, BATCH = 20, 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("again") / "data"
    prepare("trace", out, options={"n_train": ROWS, "n_prompts": 8, "n_test": 1})
    return out


def again(prepared: Path, steps: int, **sections: Any) -> bool:
    sections["data"] = {"batch_size": BATCH, "micro_batch": BATCH, **sections.get("data", {})}
    config = SftConfig.model_validate(sections)
    return sees_images_again(config, training_stream(prepared, config), steps)


@pytest.mark.parametrize(("steps", "expected"), [(1, False), (5, False), (6, True), (50, True)])
def test_rows_come_again_after_an_epoch(data: Path, steps: int, expected: bool):
    assert again(data, steps) is expected


def test_the_rounded_end_of_one_epoch_is_no_second_one(data: Path):
    """7 steps of 3 rows are one epoch of 20 rows, and one row of a second."""
    assert not again(data, 7, data={"batch_size": 3})


def test_each_set_of_a_mixture_has_epochs_of_its_own(data: Path):
    """10 steps are 40 rows of 40, but 32 of them are of the set of 20."""
    mix = [{"path": str(data), "weight": 0.25}]
    assert again(data, 10, data={"mix": mix})
    assert not again(data, 4, data={"mix": mix})


def test_a_frozen_teacher_has_seen_all_images_before_the_first_step(data: Path):
    assert again(data, 1, latent={"teacher": "frozen"})
    assert not again(data, 1, latent={"teacher": "frozen", "selection": "focus"})
    assert not again(data, 1, latent={"teacher": "frozen"}, method="plain")
