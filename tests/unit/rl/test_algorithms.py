"""Advantages and surrogate against a plain-Python formula, and against recorded values of third-party trainers."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covt_rl.algorithms.advantages import group_relative, leave_one_out
from covt_rl.algorithms.aggregation import aggregate
from covt_rl.algorithms.importance import importance_weights
from covt_rl.algorithms.kl import kl_estimate
from covt_rl.algorithms.losses import LOSSES, Clip
from covt_rl.algorithms.reinforce import reinforce_pp, reinforce_pp_baseline
from covt_rl.algorithms.surrogate import clipped_surrogate

REWARDS = st.lists(st.lists(st.floats(-3, 3), min_size=2, max_size=8), min_size=1, max_size=5)


def flatten(groups: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = [reward for group in groups for reward in group]
    index = [number for number, group in enumerate(groups) for _ in group]
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor(index)


@given(REWARDS)
def test_group_relative_is_the_textbook_formula(groups):
    rewards, index = flatten(groups)
    expected = [(r - statistics.fmean(group)) / (statistics.stdev(group) + 1e-6) for group in groups for r in group]
    torch.testing.assert_close(
        group_relative(rewards, index), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


@given(REWARDS)
def test_leave_one_out_compares_with_the_others(groups):
    rewards, index = flatten(groups)
    expected = [r - statistics.fmean(group[:i] + group[i + 1 :]) for group in groups for i, r in enumerate(group)]
    torch.testing.assert_close(
        leave_one_out(rewards, index), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6
    )


def test_a_lone_rollout_has_no_advantage():
    rewards, index = torch.tensor([2.0]), torch.tensor([0])
    assert group_relative(rewards, index).tolist() == [0.0]
    assert leave_one_out(rewards, index).tolist() == [0.0]


def test_ranks_add_up_to_one_batch():
    generator = torch.Generator().manual_seed(0)
    loss, mask = torch.rand(6, 5, generator=generator), (torch.rand(6, 5, generator=generator) > 0.4).float()
    for how in ("token_mean", "sequence_mean"):
        whole = aggregate(loss, mask, how, tokens=mask.sum().item(), sequences=6)
        halves = [
            aggregate(loss[part], mask[part], how, tokens=mask.sum().item(), sequences=6)
            for part in (slice(0, 2), slice(2, 6))
        ]
        torch.testing.assert_close(whole, sum(halves))


@given(REWARDS)
def test_reinforce_pp_whitens_over_tokens(groups):
    groups = [[round(reward, 3) for reward in group] for group in groups]
    rewards, index = flatten(groups)
    lengths = torch.arange(1, len(rewards) + 1)
    tokens = [r for r, n in zip(rewards.tolist(), lengths.tolist(), strict=True) for _ in range(n)]
    mean, deviation = statistics.fmean(tokens), (statistics.variance(tokens) + 1e-8) ** 0.5
    expected = [(r - mean) / deviation for r in rewards.tolist()]
    torch.testing.assert_close(
        reinforce_pp(rewards, lengths), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
    )
    centered = group_relative(rewards, index, scale=False)
    spread = torch.tensor([max(group) > min(group) for group in groups for _ in group])
    expected = torch.where(spread, reinforce_pp(centered, lengths), 0)
    torch.testing.assert_close(reinforce_pp_baseline(rewards, index, lengths), expected, rtol=1e-5, atol=1e-5)


def test_kl_estimates_agree_on_average_and_k3_is_never_negative():
    generator = torch.Generator().manual_seed(1)
    policy = torch.log_softmax(torch.randn(16, generator=generator, dtype=torch.float64), 0)
    reference = torch.log_softmax(policy + 0.3 * torch.randn(16, generator=generator, dtype=torch.float64), 0)
    exact = (policy.exp() * (policy - reference)).sum()
    for estimator in ("k1", "k3"):
        mean = (policy.exp() * kl_estimate(policy, reference, estimator)).sum()
        torch.testing.assert_close(mean, exact)
    assert (kl_estimate(policy, reference, "k3") >= 0).all()
    torch.testing.assert_close((policy.exp() * kl_estimate(policy, reference, "k2")).sum(), exact, rtol=0.2, atol=0)


def test_importance_weights_are_ratios_cut_at_the_cap():
    old, server = torch.tensor([[0.0, -1.0, -3.0]]), torch.tensor([[-1.0, -1.0, -1.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0]])

    def weights(how, level="token"):
        return importance_weights(old, server, mask, how=how, cap=2.0, level=level)

    e = math.e
    torch.testing.assert_close(weights("none"), torch.ones(1, 3))
    torch.testing.assert_close(weights("truncate"), torch.tensor([[2.0, 1.0, e**-2]]))
    torch.testing.assert_close(weights("mask"), torch.tensor([[0.0, 1.0, 0.0]]))
    torch.testing.assert_close(weights("truncate", "sequence"), torch.full((1, 3), e**-1))


def test_dr_grpo_divides_by_a_constant():
    loss, mask = torch.ones(2, 5), torch.tensor([[1.0] * 5, [1.0, 1.0, 0, 0, 0]])
    assert aggregate(loss, mask, "constant", tokens=7, sequences=2, max_tokens=10).item() == pytest.approx(7 / 20)


@pytest.mark.shared_data
def test_recorded_losses_of_third_party_trainers(shared_data):
    """GSPO, CISPO, KL and REINFORCE++: values and gradients."""
    for line in (shared_data / "reference_vectors" / "rl_core_algos.jsonl").read_text().splitlines():
        case = json.loads(line)
        mask, old = torch.tensor(case["response_mask"]), torch.tensor(case["old_log_probs"])
        recorded = case["expected"]["easyr1"]
        clip = Clip(low=0.2, high=0.28, dual=3.0)
        for name in ("gspo", "cispo"):
            for how, suffix in [("token_mean", "token"), ("sequence_mean", "seq")]:
                new = torch.tensor(case["log_probs"], requires_grad=True)
                per_token = LOSSES[name].surrogate(new, old, torch.tensor(recorded["grpo_adv"]), mask, clip)
                loss = aggregate(per_token, mask, how, tokens=mask.sum().item(), sequences=len(mask))
                loss.backward()
                expected = recorded[f"policy_{name}_{suffix}"]
                torch.testing.assert_close(loss.item(), expected["loss"], rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(new.grad, torch.tensor(expected["grad"]), rtol=1e-5, atol=1e-5)
        new, reference = torch.tensor(case["log_probs"]), torch.tensor(case["ref_log_probs"])
        for estimator, name in [("k1", "kl_kl"), ("k2", "kl_mse"), ("k3", "kl_low_var_kl")]:
            for side in ("easyr1", "verl"):
                torch.testing.assert_close(
                    kl_estimate(new, reference, estimator),
                    torch.tensor(case["expected"][side][name]),
                    rtol=1e-5,
                    atol=1e-5,
                )
        rewards = torch.tensor(case["token_level_rewards"]).sum(1)
        ours = reinforce_pp(rewards, mask.sum(1))[:, None] * mask
        torch.testing.assert_close(ours, torch.tensor(recorded["reinforce_pp_adv"]) * mask, rtol=1e-5, atol=1e-5)


@pytest.mark.shared_data
def test_recorded_values_of_third_party_trainers(shared_data):
    lines = (shared_data / "reference_vectors" / "rl_core_algos.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        case = json.loads(line)
        mask = torch.tensor(case["response_mask"])
        names = sorted(set(case["group"]))
        index = torch.tensor([names.index(name) for name in case["group"]])
        rewards = torch.tensor(case["token_level_rewards"]).sum(1)
        verl, easyr1 = case["expected"]["verl"], case["expected"]["easyr1"]
        for expected, ours in [
            (verl["grpo_adv"], group_relative(rewards, index)),
            (verl["grpo_adv_nostd"], group_relative(rewards, index, scale=False)),
            (verl["rloo_adv"], leave_one_out(rewards, index)),
            (easyr1["grpo_adv"], group_relative(rewards, index)),
            (easyr1["rloo_adv"], leave_one_out(rewards, index)),
        ]:
            torch.testing.assert_close(ours[:, None] * mask, torch.tensor(expected), rtol=1e-5, atol=1e-5)

        advantages = torch.tensor(easyr1["grpo_adv"])
        old = torch.tensor(case["old_log_probs"])
        for how, name in [("token_mean", "token"), ("sequence_mean", "seq")]:
            new = torch.tensor(case["log_probs"], requires_grad=True)
            per_token = clipped_surrogate(new, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
            loss = aggregate(per_token, mask, how, tokens=mask.sum().item(), sequences=len(mask))
            loss.backward()
            recorded = easyr1[f"policy_default_{name}"]
            torch.testing.assert_close(loss.item(), recorded["loss"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(new.grad, torch.tensor(recorded["grad"]), rtol=1e-5, atol=1e-5)


@pytest.mark.shared_data
def test_recorded_averages_of_third_party_trainers(shared_data):
    """Three ways to average tokens, Dr.GRPO's constant among them, of log-probabilities; and a whole clipped loss."""
    for line in (shared_data / "reference_vectors" / "rl_core_algos.jsonl").read_text().splitlines():
        case = json.loads(line)
        recorded = case["expected"]["verl"]
        mask, new = torch.tensor(case["response_mask"]), torch.tensor(case["log_probs"])
        count = {"tokens": mask.sum().item(), "sequences": len(mask), "max_tokens": mask.shape[1]}
        for how, name in [
            ("token_mean", "token-mean"),
            ("sequence_mean", "seq-mean-token-mean"),
            ("constant", "seq-mean-token-sum-norm"),
        ]:
            assert aggregate(new, mask, how, **count).item() == pytest.approx(recorded[f"agg_{name}"], rel=1e-5)
        old, advantages = torch.tensor(case["old_log_probs"]), torch.tensor(recorded["grpo_adv"])
        per_token = clipped_surrogate(new, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=3.0)
        loss = aggregate(per_token, mask, "token_mean", **count).item()
        assert loss == pytest.approx(recorded["policy_vanilla"][0], rel=1e-5, abs=1e-5)
