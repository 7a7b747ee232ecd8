"""Proposals that make a training fit."""

import pytest

from covt_runtime.engine.memory_fit import settings_that_fit, with_change
from covt_runtime.engine.optimizer_settings import ZeroConfig
from covt_runtime.recipe_schema import LoraSection, Section


class Recipe(Section):
    zero: ZeroConfig = ZeroConfig(gather="step")
    lora: LoraSection = LoraSection()


CHANGES = (
    {"zero.overlap_comm": True},
    {"zero.gather": "module"},
    {"zero.gather": "module", "zero.max_live_parameters": 0},
    {"lora.rank": 16},
)


@pytest.mark.parametrize(("fits", "found"), [
    (lambda r: r.zero.gather == "module", "zero.gather=module"),
    (lambda r: r.zero.max_live_parameters == 0, "zero.gather=module zero.max_live_parameters=0"),
    (lambda r: r.zero.gather == "module" and r.lora.rank == 16, "zero.gather=module lora.rank=16"),
    (lambda r: r.zero.overlap_comm and r.lora.rank == 16, "zero.overlap_comm=true lora.rank=16"),
    (lambda r: False, ""),
])  # fmt: skip
def test_the_first_change_that_fits_is_proposed_or_those_that_it_takes(fits, found):
    assert settings_that_fit(Recipe(), CHANGES, fits) == found


def test_changes_that_exclude_each_other_or_change_nothing_are_left_out():
    assert with_change(Recipe(), {"zero.offload_parameters": "cpu"}) is None  # gather = "step" keeps them
    assert with_change(Recipe(), {"zero.gather": "step"}) is None
    assert with_change(Recipe(), {"zero.unknown": 1}) is None
    changed = with_change(Recipe(), {"zero.gather": "module", "zero.offload_parameters": "cpu"})
    assert changed is not None and changed.zero.offload_parameters == "cpu"
