"""Group-relative advantages: how much better a rollout was than its siblings on the same prompt."""

import torch
from torch import Tensor


def _group_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Per rollout: the sum of `values` [N] over its group, and the group's size."""
    size = int(groups.max()) + 1 if len(groups) else 0
    sums = torch.zeros(size, dtype=values.dtype).index_add_(0, groups, values)
    counts = torch.zeros(size, dtype=values.dtype).index_add_(0, groups, torch.ones_like(values))
    return sums[groups], counts[groups]


def group_relative(rewards: Tensor, groups: Tensor, *, scale: bool = True, eps: float = 1e-6) -> Tensor:
    """GRPO: (reward − group mean) / (group standard deviation + eps).

    Args:
        rewards: [N], one a rollout.
        groups: [N], integers from 0; equal for rollouts of one prompt.
        scale: divide by the unbiased standard deviation (GRPO, arXiv 2402.03300 eq. 2); False is Dr.GRPO
            (arXiv 2503.20783), which leaves hard and easy prompts their own weight.

    Returns:
        [N]. Groups of one, and groups whose rewards are all equal, get 0.
    """
    sums, counts = _group_sums(rewards, groups)
    centered = rewards - sums / counts
    if not scale:
        return centered
    squares, _ = _group_sums(centered**2, groups)
    deviation = (squares / (counts - 1).clamp(min=1)).sqrt()
    return centered / (deviation + eps)


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740): reward minus the mean of the *other* rollouts of its group, or 0; [N] → [N]."""
    sums, counts = _group_sums(rewards, groups)
    others = (sums - rewards) / (counts - 1).clamp(min=1)
    return torch.where(counts > 1, rewards - others, torch.zeros_like(rewards))
