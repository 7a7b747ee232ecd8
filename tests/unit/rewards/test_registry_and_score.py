"""Names, weights, settings; and a faulty reward costing its own items only."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import (
    ConfiguredReward,
    Group,
    LatentFormat,
    RewardError,
    RewardResult,
    Rollout,
    available,
    grade,
    iter_scores,
    load,
    parse_rewards,
    score_groups,
)
from covt_rewards.registry import BUILTIN

GROUP = Group("A1", (Rollout("<answer>A1</answer>"), Rollout("<answer>B1</answer>")), id="g", grader="text")


def names_and_weights(rewards: list[ConfiguredReward]) -> list[tuple[str, float]]:
    return [(reward.name, reward.weight) for reward in rewards]


def test_names_carry_weights() -> None:
    rewards = parse_rewards("format, accuracy=1.5,necessity=-2e-1")
    assert names_and_weights(rewards) == [("format", 1.0), ("accuracy", 1.5), ("necessity", -0.2)]
    assert names_and_weights(parse_rewards(["format", "accuracy=0"])) == [("format", 1.0), ("accuracy", 0.0)]


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_every_built_in_reward_loads_and_scores(name: str) -> None:
    (reward,) = parse_rewards(name)
    boxes = '[{"bbox_2d": [0, 0, 9, 9], "point_2d": [5, 5]}]'
    group = Group(boxes, (Rollout(f"<answer>{boxes}</answer>", (1, 2)), Rollout("", ())))
    scores = score_groups([group], [reward])
    assert not scores.failures
    assert len(scores.groups[0].totals) == 2
    assert name in available()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("acuracy", "did you mean 'accuracy'.*the rewards are accuracy, format"),
        ("xyzzy", "there is no reward 'xyzzy' .the rewards are"),
        ("", "no reward is named"),
        ("format,format=2", "named twice"),
        ("format=heavy", "weight in 'format=heavy'"),
        ("format=nan", "weight in"),
        ("./nowhere.py:f", "there is no file"),
    ],
)
def test_a_bad_specification_says_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        parse_rewards(spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"necessity": {"w_hram": 1}}, "no setting 'w_hram'.*w_gain"),
        ({"necessity": {"w_harm": "x"}}, "necessity.w_harm is 'x'"),
        ({"necessity": {"w_harm": True}}, "necessity.w_harm is True .give a number"),
        ({"necessity": {"latent": 3}}, "necessity.latent is 3 .it is no plain value"),
        ({"accuracy": {"lenient": 1}}, "accuracy.lenient is 1 .give true or false"),
        ({"necessity": {"preset": "both"}}, "choose one of counterfactual, silent, contrast"),
        ({"necessity": {"form": "contrast"}}, "no setting 'form'.*its settings are preset"),
        ({"format": {"think": True}}, "settings are given for 'format'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        parse_rewards("necessity", settings)


def test_common_settings_reach_the_rewards_that_have_them() -> None:
    latent = LatentFormat(10, 11, 12, 1)
    rewards = parse_rewards("format,accuracy,usage,necessity", common={"latent": latent})
    group = Group("A1", (Rollout("<answer>A1</answer>", (11,)),), grader="text")
    scores = score_groups([group], rewards)
    assert scores.groups[0].values["format"] == [0.0]
    assert scores.groups[0].values["accuracy"] == [1.0]


def test_a_function_in_a_file_is_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from covt_rewards import RewardResult\n"
        "def short(group, limit=20):\n"
        "    return [RewardResult(float(len(r.text) < limit)) for r in group.rollouts]\n"
        "value = 3\n"
    )
    rewards = parse_rewards(f"{file}:short=2", {f"{file}:short": {"limit": 5}})
    assert names_and_weights(rewards) == [("short", 2.0)]
    assert score_groups([GROUP], rewards).groups[0].totals == (0.0, 0.0)
    assert score_groups([GROUP], parse_rewards(f"{file}:short=2")).groups[0].totals == (2.0, 2.0)
    with pytest.raises(RewardError, match="has no 'long'"):
        load(f"{file}:long")
    with pytest.raises(RewardError, match="cannot be called"):
        load(f"{file}:value")
    file.write_text("def short(group:\n")
    with pytest.raises(RewardError, match=r"mine.py cannot be imported: SyntaxError.*line 1"):
        load(f"{file}:short")


def user_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(text)
    return file


@pytest.mark.parametrize("returned", ["[1, 0.5]", "(1.0, 0.5)", "np.array([1, 0.5])", "(x for x in (1, 0.5))"])
def test_a_function_in_a_file_may_return_numbers(tmp_path: Path, returned: str) -> None:
    file = user_file(tmp_path, f"import numpy as np\ndef mine(group):\n    return {returned}\n")
    score = score_groups([GROUP], parse_rewards(f"{file}:mine")).groups[0]
    assert not score.failures
    assert score.values == {"mine": [1.0, 0.5]}


def test_a_dataclass_in_a_file_is_a_reward_with_settings(tmp_path: Path) -> None:
    file = user_file(
        tmp_path,
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Mine:\n"
        "    factor: float = 1.0\n"
        "    def __call__(self, group):\n"
        "        return [self.factor for _ in group.rollouts]\n",
    )
    name = f"{file}:Mine"
    assert score_groups([GROUP], parse_rewards(name, {name: {"factor": 2}})).groups[0].totals == (2.0, 2.0)
    with pytest.raises(RewardError, match=r"factor is 'x' .give a number"):
        parse_rewards(name, {name: {"factor": "x"}})


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def mine(group): ...", "mime", "has no 'mime' .did you mean 'mine'"),
        ("def mine(group): ...", "", "names no function .give ./file.py:function"),
        ("def mine(): ...", "mine", r"takes no group .define it as function\(group\)"),
        ("def mine(group, limit): ...", "mine", "needs the setting 'limit'"),
        ("raise OSError('no disk')", "mine", "cannot be imported: OSError: no disk .correct the file"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_to_change(tmp_path: Path, text: str, name: str, message: str) -> None:
    file = user_file(tmp_path, text)
    with pytest.raises(RewardError, match=message):
        parse_rewards(f"{file}:{name}" if name else str(file))


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("3", "returned int, not a list .return a list with one number"),
        ("None", "returned NoneType, not a list"),
        ("['a', 1]", "returned a str at 0"),
        ("[1]", "gave 1 results for 2 rollouts"),
        ("[1, float('nan')]", "value nan"),
    ],
)
def test_a_function_that_returns_something_else_is_a_failure(tmp_path: Path, returned: str, why: str) -> None:
    file = user_file(tmp_path, f"def mine(group):\n    return {returned}\n")
    score = score_groups([GROUP], parse_rewards(f"{file}:mine")).groups[0]
    assert re.search(why, score.failures["mine"])
    assert score.totals == (0.0, 0.0)


@pytest.mark.parametrize(
    ("completion", "gold", "fields", "expected"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", {}, 1.0),
        (r"\boxed{(B)}", "B", {}, 1.0),
        ("<answer>B</answer>", "B", {}, 1.0),
        ("B", "snake", {"options": ["cat", "snake"]}, 1.0),
        (r"\boxed{L,R,D}", "R,D", {"grader": "vsp", "metadata": {"rows": ["SFH", "FGF"]}}, 1.0),
        (r"\boxed{R,R}", "R,D", {"metadata": {"rows": ["SFH", "FGF"]}}, 0.0),
    ],
)
def test_one_completion_is_graded_by_one_function(
    completion: str, gold: str, fields: dict[str, Any], expected: float
) -> None:
    assert grade(completion, gold, **fields) == expected


def test_an_unknown_grader_is_refused() -> None:
    with pytest.raises(RewardError, match=r"'maths', which is no grader .the graders are boxes, choice, comt, math"):
        grade("4", "4", grader="maths")


def test_totals_are_the_weighted_sum() -> None:
    scores = score_groups([GROUP], parse_rewards("format=0.5,accuracy=2"))
    assert scores.groups[0].totals == (2.5, 0.5)
    assert scores.groups[0].values == {"format": [1.0, 1.0], "accuracy": [1.0, 0.0]}
    assert scores.metrics()["reward/total"] == 1.5
    assert scores.metrics()["reward/accuracy/accuracy"] == 0.5
    assert "gold" in scores.groups[0].reasons["accuracy"][1]


def broken(group: Group) -> list[RewardResult]:
    if group.id == "bad":
        raise KeyError("boom")
    return [RewardResult(1.0) for _ in group.rollouts]


def short_of_one(group: Group) -> list[RewardResult]:
    return [RewardResult(1.0) for _ in group.rollouts[1:]]


def endless(group: Group) -> list[RewardResult]:
    return [RewardResult(math.inf) for _ in group.rollouts]


def foreign(group: Group) -> list[RewardResult]:
    return [1.0 for _ in group.rollouts]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("reward", "why"),
    [(short_of_one, "1 results for 2"), (endless, "value inf"), (foreign, "float, not a RewardResult")],
)
def test_results_that_do_not_fit_are_failures(reward: object, why: str) -> None:
    scores = score_groups([GROUP], [ConfiguredReward("odd", 1.0, reward)])  # type: ignore[arg-type]
    assert why in scores.groups[0].failures["odd"]
    assert scores.groups[0].totals == (0.0, 0.0)


def test_a_reward_that_raises_costs_its_own_items_of_that_group_only() -> None:
    bad = Group("A1", GROUP.rollouts, id="bad", grader="text")
    rewards = [ConfiguredReward("odd", 1.0, broken), *parse_rewards("accuracy")]
    scores = score_groups([GROUP, bad], rewards)
    assert [group.totals for group in scores.groups] == [(2.0, 1.0), (1.0, 0.0)]
    assert scores.failures == {"odd": 1}
    assert scores.metrics()["reward/odd/failures"] == 1.0
    assert "KeyError" in scores.groups[1].reasons["odd"][0]


def test_an_unreadable_gold_answer_is_counted_in_training_and_named_to_those_who_check_data() -> None:
    bad = Group(" ", GROUP.rollouts, id="bad", grader="text")
    rewards = parse_rewards("accuracy")
    scores = score_groups([bad, GROUP], rewards)
    assert scores.failures == {"accuracy": 1}
    assert "is empty text" in scores.groups[0].gold_problem
    assert not scores.groups[1].gold_problem


@pytest.mark.parametrize("workers", [1, 3])
def test_scores_come_in_order_and_one_at_a_time(workers: int) -> None:
    drawn: list[int] = []

    def groups() -> object:
        for i in range(100):
            drawn.append(i)
            yield Group("A1", GROUP.rollouts, id=str(i), grader="text")

    scores = iter_scores(groups(), parse_rewards("accuracy"), workers)  # type: ignore[arg-type]
    assert next(scores).id == "0"
    assert len(drawn) <= 4 * workers + 1  # a million rows are never held at once
    assert [score.id for score in scores] == [str(i) for i in range(1, 100)]
