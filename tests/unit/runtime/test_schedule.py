"""Learning-rate schedules against closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_runtime.engine.optimizer_settings import OptimConfig
from covt_runtime.engine.schedule import lr_at


def test_warm_up_rises_in_equal_parts_to_the_full_rate() -> None:
    optim = OptimConfig(lr=0.4, warmup_steps=4, schedule="constant")
    assert [lr_at(step, 10, optim) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


def test_linear_falls_to_the_given_share_at_the_end() -> None:
    optim = OptimConfig(lr=1.0, warmup_steps=0, schedule="linear", min_lr_ratio=0.2)
    assert [lr_at(step, 4, optim) for step in (0, 1, 2, 4, 9)] == pytest.approx([1.0, 0.8, 0.6, 0.2, 0.2])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    optim = OptimConfig(lr=2.0, warmup_steps=10, schedule="cosine")
    assert lr_at(10, 110, optim) == pytest.approx(2.0)
    assert lr_at(60, 110, optim) == pytest.approx(1.0)
    assert lr_at(35, 110, optim) == pytest.approx(1.0 + math.cos(math.pi / 4))
    assert lr_at(110, 110, optim) == pytest.approx(0.0)


@given(
    schedule=st.sampled_from(["constant", "linear", "cosine", "wsd"]),
    warmup=st.integers(0, 20),
    total=st.integers(1, 50),
    step=st.integers(0, 100),
)
def test_the_rate_is_never_above_lr_nor_below_zero(schedule: str, warmup: int, total: int, step: int) -> None:
    optim = OptimConfig.model_validate({"lr": 3.0, "warmup_steps": warmup, "schedule": schedule})
    assert 0.0 <= lr_at(step, total, optim) <= 3.0


def test_wsd_is_constant_and_then_falls_to_nothing() -> None:
    optim = OptimConfig(lr=2.0, warmup_steps=2, schedule="wsd", decay_share=0.4)
    assert [lr_at(step, 10, optim) for step in range(11)] == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5, 0])
