"""Third-party inputs and outputs: the published rewards and judges, reproduced."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from covt_rewards import Group, Rollout, make
from covt_rewards.accuracy import AccuracyReward

pytestmark = pytest.mark.shared_data


def rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    with (folder / "reference_vectors" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def test_vision_reasoner_is_equal_number_for_number(shared_data: Path) -> None:
    reward = make("vision_reasoner")
    count = 0
    for row in rows(shared_data, "visionreasoner_reward"):
        (result,) = reward(Group(row["ground_truth"], (Rollout(row["predict_str"]),)))
        for part in ("format", "accuracy", "non_repeat"):
            assert result.parts[part] == pytest.approx(row[part], abs=1e-6), row
        assert result.value == pytest.approx(row["total"], abs=1e-6)
        (accuracy,) = AccuracyReward(grader="boxes", lenient=False)(
            Group(row["ground_truth"], (Rollout(row["predict_str"]),))
        )
        assert accuracy.parts["points"] == pytest.approx(row["accuracy"], abs=1e-6)
        count += 1
    assert count == 589


@pytest.mark.parametrize(("rule", "judge"), [("stop_at_goal", "gym_success"), ("end_on_goal", "mirage_success")])
def test_both_judges_of_plans_agree_with_ours(shared_data: Path, rule: str, judge: str) -> None:
    accuracy = AccuracyReward(grader="vsp", vsp_rule=rule)  # type: ignore[arg-type]
    count = 0
    for row in rows(shared_data, "vsp_plan_eval"):
        group = Group("", (Rollout(f"<answer>{row['plan']}</answer>"),), metadata={"rows": row["rows"]})
        assert bool(accuracy(group)[0].value) == row[judge], row
        count += 1
    assert count == 1680


def agreement(folder: Path, name: str, verdict: str, **fields: str) -> float:
    """The share of rows on which the fast graders' verdict is the recorded one; rows that need algebra are left out."""
    accuracy = AccuracyReward()
    agreed: list[bool] = []
    for row in rows(folder, name):
        options = tuple(row[fields["options"]] or ())
        if options:
            (result,) = accuracy(Group(row["answer"], (Rollout(row["response"]),), options=options))
            agreed.append(bool(result.value) == row[verdict])
    assert len(agreed) > 100
    return sum(agreed) / len(agreed)


def test_multiple_choice_agrees_with_the_published_graders(shared_data: Path) -> None:
    assert agreement(shared_data, "mathvision_graded_responses", "mathv_correct", options="options") >= 0.965
    assert agreement(shared_data, "mathvista_bard_scored", "true_false", options="choices") >= 0.96
