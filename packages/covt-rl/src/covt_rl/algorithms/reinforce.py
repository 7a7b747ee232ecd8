"""REINFORCE++ (arXiv 2501.03262): advantages normalized over the whole batch instead of within a group."""

import torch
from torch import Tensor

from covt_rl.algorithms.advantages import group_relative

EPS = 1e-8


def reinforce_pp(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Rewards whitened over the *tokens* of the batch, by their unbiased standard deviation; [N] → [N].

    Args:
        rewards: [N], one a rollout, paid at its last token (discount 1, so every token's return is the reward).
        lengths: [N], counted tokens of each rollout: a long rollout weighs more in mean and variance.
    """
    weights = lengths.to(rewards.dtype)
    total = weights.sum()
    mean = (rewards * weights).sum() / total.clamp(min=1)
    variance = ((rewards - mean) ** 2 * weights).sum() / (total - 1).clamp(min=1)
    return (rewards - mean) * torch.rsqrt(variance + EPS)


def reinforce_pp_baseline(rewards: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
    """REINFORCE++-baseline: the group's mean is taken off first, then whitened as `reinforce_pp`; [N] → [N]."""
    return reinforce_pp(group_relative(rewards, groups, scale=False), lengths)
