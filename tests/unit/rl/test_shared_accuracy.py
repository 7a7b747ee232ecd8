"""Scoring grades each text once, scores groups side by side, and gives what scoring one after the other gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from covt_model.latent_config import LatentConfig
from covt_rewards import Group, Rollout, parse_rewards, score_groups
from covt_rewards.accuracy import AccuracyReward, accuracy_reward
from covt_rl.rl_recipe import RewardsSection
from covt_rl.scoring.reward_process import ProcessReward
from covt_rl.scoring.score_groups import build_rewards
from covt_rl.scoring.shared_accuracy import SharedAccuracy, share_accuracy
from covt_runtime.recipe_schema import PromptSection

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
SPAN = (100, 101, 101, 102)
RIGHT, WRONG = "\\boxed{B3}", "\\boxed{A1}"


def rollout(text: str, *ablated: str) -> Rollout:
    without = tuple(Rollout(one) for one in ablated)
    return Rollout(text, token_ids=(*SPAN, 7), latent_spans=((1, 3),), ablated=without)


def groups(count: int) -> list[Group]:
    rollouts = (rollout(RIGHT, WRONG), rollout(WRONG, RIGHT), rollout(RIGHT, RIGHT), rollout("none", WRONG))
    return [Group("B3", rollouts, id=str(number), grader="text") for number in range(count)]


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that a grader has read."""
    texts: list[str] = []
    load = accuracy_reward.load_grader

    def counting(name: str) -> Any:
        grader = load(name)

        def grade(task: Any, given: Sequence[str]) -> Any:
            texts.extend(given)
            return grader(task, given)

        return grade

    monkeypatch.setattr(accuracy_reward, "load_grader", counting)
    return texts


@pytest.mark.parametrize("use", ["accuracy,necessity", "necessity,accuracy=0.5", "accuracy"])
def test_each_text_of_a_group_is_graded_once(use: str, graded: list[str]):
    rewards = build_rewards(RewardsSection(use=use), PromptSection(), LATENT)
    score_groups(groups(3), rewards)
    assert sorted(graded) == sorted([RIGHT, WRONG, "none"] * 3)


@pytest.mark.parametrize("use", ["accuracy,necessity", "necessity,accuracy", "format,accuracy", "necessity"])
def test_the_scores_are_those_of_rewards_that_share_nothing(use: str):
    plain = parse_rewards(use)
    assert score_groups(groups(4), share_accuracy(plain), workers=3) == score_groups(groups(4), plain)


def test_accuracies_with_different_settings_are_not_shared():
    rewards = parse_rewards("accuracy,necessity", settings={"necessity": {"accuracy": AccuracyReward(lenient=False)}})
    accuracy, necessity = share_accuracy(rewards)
    assert isinstance(accuracy.reward, SharedAccuracy)
    assert necessity.reward is rewards[1].reward


def test_a_gold_answer_is_still_checked():
    with pytest.raises(Exception, match="map"):
        SharedAccuracy().check_gold(Group("LR", (), grader="vsp"))


def test_a_reward_of_the_user_s_own_answers_one_thread_at_a_time(tmp_path: Any):
    """It is one process with one pipe."""
    path = tmp_path / "mine.py"
    path.write_text("def mine(group):\n    return [float(group.id)] * len(group.rollouts)\n")
    reward = ProcessReward(f"{path}:mine", {}, time_limit=30.0)
    found: dict[int, float] = {}

    def ask(number: int) -> None:
        time.sleep(0.001 * (number % 3))
        found[number] = reward(Group("B3", (Rollout(RIGHT),), id=str(number)))[0].value

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reward.close()
    assert found == {number: float(number) for number in range(12)}
