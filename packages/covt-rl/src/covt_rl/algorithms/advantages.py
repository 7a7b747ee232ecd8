"""Group-relative advantages: how much better a rollout was than its siblings on the same prompt."""

import torch
from torch import Tensor

ROUNDING = 16
"""Rewards that differ by at most this many units in the last place are equal: they are sums of weighted rewards, and
0.1 + 0.2 is not 0.3."""


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Per rollout: the sum of `values` [N] over its group, and the group's size."""
    size = int(groups.max()) + 1 if len(groups) else 0
    sums = torch.zeros(size, dtype=values.dtype).index_add_(0, groups, values)
    counts = torch.zeros(size, dtype=values.dtype).index_add_(0, groups, torch.ones_like(values))
    return sums[groups], counts[groups]


def group_has_spread(rewards: Tensor, groups: Tensor) -> Tensor:
    """Whether the rewards of each rollout's group differ by more than rounding.

    Without spread nothing can be learned from a group. Its computed mean may still differ from its equal rewards in the
    last place, which a division by the tiny standard deviation turns into sizable advantages.

    Args:
        rewards: [N], one per rollout.
        groups: [N], integers from 0; equal for rollouts of one prompt.

    Returns:
        [N], booleans.
    """
    size = int(groups.max()) + 1 if len(groups) else 0
    empty = torch.zeros(size, dtype=rewards.dtype)
    high = empty.scatter_reduce(0, groups, rewards, "amax", include_self=False)
    low = empty.scatter_reduce(0, groups, rewards, "amin", include_self=False)
    tolerance = ROUNDING * torch.finfo(rewards.dtype).eps * torch.maximum(high.abs(), low.abs())
    return (high - low > tolerance)[groups]


def group_relative(rewards: Tensor, groups: Tensor, *, scale: bool = True, eps: float = 1e-6) -> Tensor:
    """GRPO: (reward − group mean) / (group standard deviation + eps).

    Args:
        rewards: [N], one per rollout.
        groups: [N], integers from 0; equal for rollouts of one prompt.
        scale: divide by the unbiased standard deviation (GRPO, arXiv 2402.03300 eq. 2); False is Dr.GRPO
            (arXiv 2503.20783), which leaves hard and easy prompts their own weight.
        eps: added to the standard deviation.

    Returns:
        [N]. Groups of one, and groups whose rewards are all equal, get exactly 0.
    """
    sums, counts = _group_sums(rewards, groups)
    centered = torch.where(group_has_spread(rewards, groups), rewards - sums / counts, 0)
    if not scale:
        return centered
    squares, _ = _group_sums(centered**2, groups)
    deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
    return centered / (deviation + eps)


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): reward minus the mean of the *other* rollouts of its group; [N] → [N].

    Groups of one, and groups whose rewards are all equal, get exactly 0.
    """
    sums, counts = _group_sums(rewards, groups)
    others = (sums - rewards) / (counts - 1).clamp(min=1)
    return torch.where(group_has_spread(rewards, groups), rewards - others, 0)
