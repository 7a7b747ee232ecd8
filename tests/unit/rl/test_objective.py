"""The objective's loss of given log-probabilities, against formulas written out."""

import math
from typing import Any, cast

import pytest
import torch

from covt_rl.rl_recipe import AlgorithmSection
from covt_rl.updates.objective import GrpoObjective, Target

MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
SERVER = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]])
NEW = torch.tensor([[-1.1, -1.9, 0.0], [-0.4, 0.0, 0.0]])
ADVANTAGES = torch.tensor([1.0, -2.0])


def objective(**algorithm: Any) -> GrpoObjective:
    policy = torch.nn.Module()
    return GrpoObjective(cast("Any", policy), AlgorithmSection(**algorithm), 1.0, max_tokens=10)


def loss(target: dict[str, Any] | None = None, **algorithm: Any):
    given = Target(server=SERVER, advantages=ADVANTAGES, tokens=3.0, sequences=2.0, **(target or {}))
    return objective(**algorithm).loss(NEW.clone().requires_grad_(), torch.full_like(NEW, 0.7), MASK, given)


def test_the_servers_policy_is_the_old_one():
    ratios = [math.exp(-0.1), math.exp(0.1), math.exp(0.1)]
    expected = -(ratios[0] + ratios[1] - 2 * ratios[2]) / 3
    assert loss().loss.item() == pytest.approx(expected, rel=1e-5)


def test_with_a_correction_the_trainers_own_policy_is_the_old_one():
    # The ratio to itself is 1: what is left is the weight, cut at the cap.
    weights = [math.exp(-0.1), math.exp(0.1), math.exp(0.1)]
    expected = -(weights[0] + weights[1] - 2 * weights[2]) / 3
    corrected = loss(importance="truncate")
    assert corrected.loss.item() == pytest.approx(expected, rel=1e-5)
    assert corrected.sums["importance"] == pytest.approx(sum(weights), rel=1e-5)
    capped = loss(importance="truncate", importance_cap=1.05)
    expected = -(weights[0] + 1.05 - 2 * 1.05) / 3
    assert capped.loss.item() == pytest.approx(expected, rel=1e-5)


def test_kl_and_entropy_are_added_once_a_token():
    reference = {"reference": NEW - 0.2}
    plain = loss(reference, kl_weight=0.0).loss.item()
    with_kl = loss(reference, kl_weight=0.5, kl_estimator="k1").loss.item()
    assert with_kl - plain == pytest.approx(0.5 * 0.2, rel=1e-4)
    in_reward = loss(reference, kl_weight=0.5, kl_in="reward").loss.item()
    assert in_reward == pytest.approx(plain, rel=1e-6)
    assert loss(entropy_weight=0.1).loss.item() - plain == pytest.approx(-0.07, rel=1e-4)


def test_sums_count_sampled_tokens_only():
    sums = loss().sums
    assert sums["tokens"] == 3
    assert sums["gap"] == pytest.approx(0.3, rel=1e-5)
    assert sums["entropy"] == pytest.approx(2.1, rel=1e-5)
    assert sums["clipped"] == 0
    assert loss(clip_low=0.05, clip_high=0.05).sums["clipped"] == 3


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "gspo", "cispo"])
def test_every_loss_raises_what_was_better_and_lowers_what_was_worse(name):
    new = SERVER.clone().requires_grad_()
    target = Target(server=SERVER, advantages=ADVANTAGES, tokens=3.0, sequences=2.0)
    objective(loss=name).loss(new, torch.zeros_like(new), MASK, target).loss.backward()
    assert new.grad is not None
    assert (new.grad[0, :2] < 0).all() and new.grad[1, 0] > 0
    assert (new.grad * (1 - MASK)).abs().max() == 0


def test_impossible_settings_are_refused():
    for settings in ({"dual_clip": 1.1}, {"normalize": "per_reward", "kl_weight": 0.1, "kl_in": "reward"}):
        with pytest.raises(ValueError, match=r"dual_clip|kl_in"):
            AlgorithmSection(**cast("Any", settings))
