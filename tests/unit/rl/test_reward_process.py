"""A reward of the user's own that raises or hangs costs the group it does so on, and is counted."""

from pathlib import Path

import pytest

from covt_model.latent_config import LatentConfig
from covt_rewards import Group, Rollout, score_groups
from covt_rl.rl_recipe import RewardsSection
from covt_rl.scoring.reward_process import ProcessReward
from covt_rl.scoring.score_groups import build_rewards
from covt_runtime.recipe_schema import PromptSection

REWARD = """
import time
from covt_rewards import RewardResult

def own(group, bonus=0.0):
    print("a reward may print")
    if group.answer == "hang":
        while True:
            pass
    if group.answer == "raise":
        raise KeyError("no such thing")
    return [RewardResult(float(one.text == group.answer) + bonus) for one in group.rollouts]
"""
LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(REWARD)
    return path


def group(answer: str) -> Group:
    return Group(answer=answer, rollouts=(Rollout("yes"), Rollout("no")), id=answer)


def test_only_the_bad_groups_are_lost(file: Path):
    section = RewardsSection(use=f"{file}:own", time_limit=1.0)
    rewards = build_rewards(section, PromptSection(), LATENT)
    own = rewards[0].reward
    assert isinstance(own, ProcessReward)
    try:
        scores = score_groups([group(answer) for answer in ("yes", "raise", "hang", "no")], rewards[:1])
        assert [one.totals for one in scores.groups] == [(1.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]
        assert scores.failures == {"own": 2}
        assert "no such thing" in scores.groups[1].failures["own"]
        assert "within" in scores.groups[2].failures["own"]
    finally:
        own.close()


def test_settings_reach_the_reward(file: Path):
    own = ProcessReward(f"{file}:own", {"bonus": 0.5}, 30.0)
    try:
        assert [one.value for one in own(group("yes"))] == [1.5, 0.5]
    finally:
        own.close()


def test_built_in_rewards_stay_in_the_process():
    rewards = build_rewards(RewardsSection(use="format,accuracy"), PromptSection(), LATENT)
    assert not any(isinstance(one.reward, ProcessReward) for one in rewards)
