"""Advantages and losses are found by name; an advantage may be a function in a file of the user's own."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from covt_rewards import RewardError
from covt_rl.algorithms.advantage_registry import ADVANTAGES, load_advantage
from covt_rl.algorithms.losses import LOSSES
from covt_rl.rl_recipe import AlgorithmSection

REWARDS, GROUPS, LENGTHS = torch.tensor([1.0, 0.0, 3.0, 1.0]), torch.tensor([0, 0, 1, 1]), torch.tensor([2, 3, 4, 5])


@pytest.mark.parametrize("name", ADVANTAGES)
def test_every_advantage_has_a_value_per_rollout_and_is_a_recipe_setting(name: str):
    assert AlgorithmSection(advantage=name).advantage == name
    assert load_advantage(name)(REWARDS, GROUPS, LENGTHS).shape == REWARDS.shape


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_a_recipe_setting_with_an_aggregation(name: str):
    assert AlgorithmSection(loss=name).averaging == LOSSES[name].aggregation


@pytest.mark.parametrize("section", [{"advantage": "grop"}, {"loss": "dopa"}])
def test_an_unknown_name_is_refused_with_the_known_ones(section: dict[str, str]):
    with pytest.raises(ValidationError, match="grpo"):
        AlgorithmSection.model_validate(section)


def test_a_function_in_a_file_is_an_advantage(tmp_path: Path):
    mine = tmp_path / "mine.py"
    mine.write_text("def center(rewards, groups, lengths):\n    return rewards - rewards.mean()\n")
    name = AlgorithmSection(advantage=f"{mine}:center").advantage
    assert load_advantage(name)(REWARDS, GROUPS, LENGTHS).tolist() == [-0.25, -1.25, 1.75, -0.25]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return rewards[:2]", "returned tensor"),
        ("return rewards / 0", "returned tensor"),
        ("return 1.0", "returned 1.0"),
        ("raise KeyError('x')", "raises KeyError"),
    ],
)
def test_a_function_that_gives_no_advantages_is_refused_before_a_training(tmp_path: Path, body: str, message: str):
    mine = tmp_path / "mine.py"
    mine.write_text(f"def bad(rewards, groups, lengths):\n    {body}\n")
    with pytest.raises(RewardError, match=message) as error:
        load_advantage(f"{mine}:bad")
    assert "returns advantages [N]" in error.value.remedy


def test_a_missing_file_or_function_is_named(tmp_path: Path):
    with pytest.raises(RewardError, match="there is no file"):
        load_advantage(f"{tmp_path}/none.py:f")
    (tmp_path / "mine.py").write_text("def centre(rewards, groups, lengths):\n    return rewards\n")
    with pytest.raises(RewardError, match="has no 'center'") as error:
        load_advantage(f"{tmp_path}/mine.py:center")
    assert "centre" in error.value.remedy
