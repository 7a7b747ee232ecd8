"""Which stages a training has, and where among them it stands when one ends before its planned steps."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_sft.sft_errors import SftError
from covt_sft.sft_job import SftJob
from covt_sft.sft_recipe import SftConfig
from covt_sft.training.stages import Position, planned_stages


def job(first: int, second: int, seconds: float | None = None) -> SftJob:
    config = SftConfig.model_validate({"stage1": {"steps": first, "seconds": seconds}, "stage2": {"steps": second}})
    paths = {"run": Path("run"), "data": Path("data"), "model": Path("model")}
    return SftJob(config=config, stage1_steps=first, stage2_steps=second, **paths)


def test_a_stage_without_steps_is_left_out_and_the_last_one_is_final():
    assert [(one.name, one.is_final) for one in planned_stages(job(3, 2))] == [("stage1", False), ("stage2", True)]
    assert [(one.name, one.is_final) for one in planned_stages(job(3, 0))] == [("stage1", True)]
    assert [(one.name, one.is_final) for one in planned_stages(job(0, 2))] == [("stage2", True)]
    with pytest.raises(SftError, match="neither stage has steps"):
        planned_stages(job(0, 0))


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_boundary_is_where_the_stage_ended(steps: int, taken: int):
    """The clock advances by one second per step, so `seconds = taken` ends the stage after `taken` steps."""
    first, second = planned_stages(job(steps, 2, seconds=taken))
    position = Position("stage1")
    while not position.ended:
        position.advance(first, position.seconds + 1.0)
    assert position.done == min(steps, taken)
    position.enter(second)
    assert (position.first, position.steps, position.seconds) == (min(steps, taken), 0, 0.0)
    position.advance(second, 100.0)
    assert not position.ended
    position.advance(second, 200.0)
    assert position.ended and position.done == min(steps, taken) + 2


def test_a_position_survives_its_checkpoint():
    position = Position("stage2", first=3, done=5, seconds=1.5, ended=True)
    assert Position.from_checkpoint({"position": position.as_dict()}, {}, []) == position


@pytest.mark.parametrize(
    ("extra", "schedule", "expected"),
    [
        ("stage1", {"step": 2, "start": 0, "total": 3}, Position("stage1", 0, 2)),
        ("stage1", {"step": 3, "start": 0, "total": 3}, Position("stage1", 0, 3, ended=True)),
        ("stage2", {"step": 4, "start": 3, "total": 2}, Position("stage2", 3, 4)),
        ("stage2", {"step": 5, "start": 3, "total": 2}, Position("stage2", 3, 5, ended=True)),
    ],
)
def test_an_earlier_checkpoint_names_only_its_stage(extra: str, schedule: dict[str, int], expected: Position):
    assert Position.from_checkpoint({"stage": extra}, schedule, planned_stages(job(3, 2))) == expected
