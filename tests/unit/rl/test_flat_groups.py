"""A group whose rewards are equal teaches nothing: its advantages are exactly 0, whatever computes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covt_model.encoding.encode import EncodedPrompt
from covt_model.latent_config import LatentConfig
from covt_rewards import GroupScore, RewardResult, Scores
from covt_rl.algorithms.advantage_registry import ADVANTAGES, load_advantage
from covt_rl.rl_recipe import AlgorithmSection, RewardsSection
from covt_rl.scoring.group_advantages import with_advantages
from covt_rl.scoring.score_groups import ScoredGroup, build_rewards, metrics
from covt_rl.scoring.train_groups import TrainGroup, to_train_group
from covt_rollout.client.completions import Completion
from covt_runtime.recipe_schema import PromptSection

GROUPWISE = [name for name in ADVANTAGES if name != "reinforce_pp"]
REWARDS = build_rewards(
    RewardsSection(use="accuracy=0.7,format=0.1"), PromptSection(), LatentConfig(start_id=100, pad_id=101, end_id=102)
)
# Sums of weighted rewards, as totals are: 0.1 + 0.2 is not 0.3.
TOTAL = st.floats(-1e3, 1e3) | st.integers(-30, 30).map(lambda n: n / 10) | st.sampled_from([1.2, 0.1 + 0.2, 1 / 3])
SIZE = st.integers(2, 16)
DTYPE = st.sampled_from([torch.float32, torch.float64])


def completion(length: int) -> Completion:
    return Completion(
        group_id="r",
        sample_index=0,
        prompt_ids=(1,),
        token_ids=(7,) * length,
        logprobs=(-0.5,) * length,
        text="",
        finish_reason="stop",
        latent_spans=(),
    )


def scored(totals: list[float], values: dict[str, list[float]], lengths: list[int]) -> ScoredGroup:
    completions = tuple(completion(length) for length in lengths)
    return ScoredGroup(
        row_id="r",
        completions=completions,
        ablated=((),) * len(totals),
        totals=tuple(totals),
        values=values,
    )


def trained(group: ScoredGroup) -> TrainGroup:
    return to_train_group(group, EncodedPrompt("r", np.zeros(0, np.int64), np.zeros(0, np.int64), (), ()))


@pytest.mark.parametrize("name", GROUPWISE)
@given(total=TOTAL, size=SIZE, others=st.lists(st.floats(-3, 3), min_size=0, max_size=8), dtype=DTYPE)
def test_equal_rewards_of_a_group_give_exactly_0_beside_any_other_group(
    name: str, total: float, size: int, others: list[float], dtype: torch.dtype
):
    rewards = torch.tensor([total] * size + others, dtype=dtype)
    groups = torch.tensor([0] * size + [1] * len(others))
    lengths = torch.arange(1, len(rewards) + 1)
    assert load_advantage(name)(rewards, groups, lengths)[:size].tolist() == [0.0] * size


@given(total=TOTAL, sizes=st.lists(SIZE, min_size=1, max_size=4), dtype=DTYPE)
def test_reinforce_pp_gives_exactly_0_to_a_batch_of_equal_rewards(total: float, sizes: list[int], dtype: torch.dtype):
    """It compares with the whole batch: a group of equal rewards may well be better than the others."""
    rewards = torch.full((sum(sizes),), total, dtype=dtype)
    groups = torch.tensor([number for number, size in enumerate(sizes) for _ in range(size)])
    found = load_advantage("reinforce_pp")(rewards, groups, torch.arange(1, len(rewards) + 1))
    assert found.tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("name", GROUPWISE)
def test_rewards_that_differ_by_rounding_only_are_equal(name: str):
    rewards = torch.tensor([0.1 + 0.2, 0.3, 0.3, 1.0, 0.0], dtype=torch.float64)
    found = load_advantage(name)(rewards, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3, 4, 5, 6, 7]))
    assert found[:3].tolist() == [0.0] * 3
    assert found[3] > 0 > found[4]


@pytest.mark.parametrize("name", GROUPWISE)
@pytest.mark.parametrize("normalize", ["total", "per_reward"])
@given(
    accuracy=st.floats(-3, 3),
    form=st.floats(-3, 3),
    size=SIZE,
    penalty=st.none() | st.floats(0, 2),
)
def test_a_scored_group_without_spread_has_advantages_of_exactly_0_in_both_normalizations(
    name: str, normalize: str, accuracy: float, form: float, size: int, penalty: float | None
):
    total = 0.7 * accuracy + 0.1 * form
    values = {"accuracy": [accuracy] * size, "format": [form] * size, "necessity": [0.0] * size}
    flat = scored([total] * size, values, list(range(1, size + 1)))
    spread = replace(
        flat,
        totals=tuple(0.7 * (n % 2) for n in range(size)),
        values={**values, "accuracy": [float(n % 2) for n in range(size)], "format": [0.0] * size},
    )
    assert not flat.has_spread and spread.has_spread
    algorithm = AlgorithmSection.model_validate({"advantage": name, "normalize": normalize})
    penalties = None if penalty is None else [[penalty] * size, [0.0] * size]
    first, second = with_advantages([trained(flat), trained(spread)], REWARDS, algorithm, penalties)
    assert first.advantages == (0.0,) * size
    assert any(second.advantages)


def test_a_group_whose_totals_differ_by_rounding_only_has_no_spread():
    """Two ways to earn the same: 0.1 + 0.2 and 0.3. `rollout.dynamic` must not keep it."""
    assert not scored([0.1 + 0.2, 0.3], {}, [1, 2]).has_spread
    assert scored([0.3 + 1e-9, 0.3], {}, [1, 2]).has_spread
    results = {name: (RewardResult(0.0),) * 2 for name in ("accuracy", "format", "necessity")}
    logged = metrics(Scores((GroupScore("r", (0.1 + 0.2, 0.3), results),)))
    assert logged["frac_reward_zero_std"] == 1


def test_the_documented_case_is_0():
    """Eight rollouts of reward 1.2 each, which float32 and an epsilon of 1e-6 turned into advantages of 0.1057."""
    (found,) = with_advantages([trained(scored([1.2] * 8, {}, [5] * 8))], REWARDS, AlgorithmSection())
    assert found.advantages == (0.0,) * 8
