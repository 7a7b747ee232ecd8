"""The recipe of a reinforcement training: every setting is described, and settings that exclude each other are said."""

import pytest

from covt_rl.rl_recipe import RlConfig


def test_a_batch_that_can_not_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"rollout.prompts = 10 can't be cut into algorithm.mini_batches = 4"):
        RlConfig.model_validate({"rollout": {"prompts": 10}, "algorithm": {"mini_batches": 4}})
