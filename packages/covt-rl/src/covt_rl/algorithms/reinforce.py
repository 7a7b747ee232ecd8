"""REINFORCE++ (arXiv 2501.03262): advantages normalized over the whole batch instead of within a group."""

import torch
from torch import Tensor

from covt_rl.algorithms.advantages import group_has_spread, group_relative

EPS = 1e-8


def reinforce_pp(rewards: Tensor, lengths: Tensor) -> Tensor:
    """Rewards whitened over the *tokens* of the batch, by their unbiased standard deviation.

    The comparison is with the whole batch: a group whose rewards are equal still gets an advantage where the other
    groups are better or worse.

    Args:
        rewards: [N], one per rollout, paid at its last token (discount 1, so every token's return is the reward).
        lengths: [N], counted tokens of each rollout: a long rollout weighs more in mean and variance.

    Returns:
        [N]; exactly 0 for a batch whose rewards are all equal.
    """
    weights = lengths.to(rewards.dtype)
    total = weights.sum()
    mean = (rewards * weights).sum() / total.clamp(min=1)
    variance = ((rewards - mean) ** 2 * weights).sum() / (total - 1).clamp(min=1)
    whitened = (rewards - mean) * torch.rsqrt(variance + EPS)
    return torch.where(group_has_spread(rewards, torch.zeros_like(lengths, dtype=torch.int64)), whitened, 0)


def reinforce_pp_baseline(rewards: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
    """REINFORCE++-baseline: subtract the group's mean, then whiten as `reinforce_pp`; [N] → [N].

    Whitening subtracts the batch's mean over tokens, which is not 0 when lengths differ. Groups whose rewards are all
    equal are left at exactly 0, since there is nothing to learn from them.
    """
    whitened = reinforce_pp(group_relative(rewards, groups, scale=False), lengths)
    return torch.where(group_has_spread(rewards, groups), whitened, 0)
