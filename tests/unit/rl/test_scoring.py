"""From completions to advantages: what is paid, what is logged, and that a group's constant does not matter."""

import json

import numpy as np
import pytest

from covt_data.schema import Row
from covt_model.encoding.encode import EncodedPrompt
from covt_model.latent_config import LatentConfig
from covt_rewards import RewardError
from covt_rl.rl_recipe import AlgorithmSection, RewardsSection
from covt_rl.scoring.collected import Collected
from covt_rl.scoring.group_advantages import with_advantages
from covt_rl.scoring.score_groups import build_rewards, metrics, score
from covt_rl.scoring.train_groups import to_train_group
from covt_rollout.client.completions import Completion
from covt_runtime.recipe_schema import PromptSection

LATENT = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
SPAN = (100, 101, 101, 102)
NO_PROMPT = EncodedPrompt("r", np.zeros(0, np.int64), np.zeros(0, np.int64), (), ())


def row(answer: str = "B3") -> Row:
    return Row(id="r", source="s", split="p", question="where?", answer=answer, grader="text", metadata=json.dumps({}))


def completion(text: str, *, latent: bool = True, index: int = 0) -> Completion:
    ids = (*SPAN, 7, 8) if latent else (7, 8)
    return Completion(
        group_id="r",
        sample_index=index,
        prompt_ids=(1,),
        token_ids=ids,
        logprobs=(0.0,) * len(ids),
        text=text,
        finish_reason="stop",
        latent_spans=((1, 3),) if latent else (),
    )


def scored(use: str, completions, ablated, **algorithm):
    """One group with its advantages, and the metrics of its scores."""
    rewards = build_rewards(RewardsSection(use=use), PromptSection(), LATENT)
    groups, scores = score([row()], Collected([completions], [ablated]), rewards)
    trained = [to_train_group(group, NO_PROMPT) for group in groups]
    return with_advantages(trained, rewards, AlgorithmSection(**algorithm)), metrics(scores)


RIGHT, WRONG = "\\boxed{B3}", "\\boxed{A1}"


def test_rewards_are_weighted_and_advantages_are_relative_to_the_group():
    (group,), logged = scored("accuracy=2,format=0.5", [completion(RIGHT), completion(WRONG)], [[], []])
    assert group.totals == (2.5, 0.5)
    assert group.advantages[0] == pytest.approx(-group.advantages[1])
    assert group.advantages[0] == pytest.approx(1 / 2**0.5, rel=1e-4)
    assert logged["reward"] == pytest.approx(1.5)
    assert logged["rewards/accuracy/mean"] == pytest.approx(0.5)
    assert logged["frac_reward_zero_std"] == 0


def test_nu_is_logged_though_necessity_is_not_paid():
    (group,), logged = scored(
        "accuracy", [completion(RIGHT), completion(RIGHT)], [[completion(WRONG)], [completion(RIGHT)]]
    )
    assert logged["necessity/nu"] == pytest.approx(0.5)
    assert group.totals == (1.0, 1.0)
    assert group.advantages == (0.0, 0.0)


def test_necessity_pays_where_the_latents_were_needed():
    (group,), _ = scored(
        "necessity", [completion(RIGHT), completion(RIGHT)], [[completion(WRONG)], [completion(RIGHT)]]
    )
    assert group.totals == (1.0, 0.0)
    assert group.advantages[0] > 0 > group.advantages[1]


def test_each_reward_can_be_normalized_on_its_own():
    completions = [completion(RIGHT), completion(WRONG), completion("no box"), completion(RIGHT)]
    (summed,), _ = scored("accuracy=10,format=1", completions, [[]] * 4, normalize="total")
    (apart,), _ = scored("accuracy=1,format=1", completions, [[]] * 4, normalize="per_reward")
    assert summed.advantages[1] - summed.advantages[2] < 0.2
    assert apart.advantages[1] - apart.advantages[2] > 1


def test_an_unknown_reward_is_refused_with_the_nearest():
    with pytest.raises(RewardError, match="acuracy") as caught:
        build_rewards(RewardsSection(use="acuracy"), PromptSection(), LATENT)
    assert "accuracy" in caught.value.remedy
