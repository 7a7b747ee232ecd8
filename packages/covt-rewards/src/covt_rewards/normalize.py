"""Advantages from the rewards of a group: sum then normalize, or normalize each reward and then sum.

The first order is GRPO's (Shao et al. 2024, arXiv:2402.03300). With the second, a noisy reward does not drown a
rare one. In both, a constant added to all values of a group cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from covt_rewards.reward_errors import RewardError


def normalize(values: Sequence[float], scale: bool = True, eps: float = 1e-6) -> list[float]:
    """Subtract the group's mean, and when `scale` divide by its sample standard deviation (n − 1) + eps.

    Groups of one rollout and groups of equal values become zeros.
    """
    if not values:
        return []
    mean = fmean(values)
    deviations = [value - mean for value in values]
    if not scale or len(values) < 2:
        return deviations
    spread = math.sqrt(sum(d * d for d in deviations) / (len(values) - 1))
    return [d / (spread + eps) for d in deviations]


def sum_then_normalize(
    values: Mapping[str, Sequence[float]], weights: Mapping[str, float], scale: bool = True, eps: float = 1e-6
) -> list[float]:
    """Normalize the weighted sum of a group's rewards.

    Args:
        values: one unweighted value per rollout, per reward.
        weights: one weight per reward.
        scale: divide by the standard deviation.
        eps: added to the standard deviation.

    Returns:
        One advantage per rollout.

    Raises:
        RewardError: when names or lengths do not fit together.
    """
    return normalize(_weighted_sum(values, weights), scale, eps)


def normalize_then_sum(
    values: Mapping[str, Sequence[float]], weights: Mapping[str, float], scale: bool = True, eps: float = 1e-6
) -> list[float]:
    """Normalize each reward on its own, then sum with weights; arguments as in `sum_then_normalize`."""
    return _weighted_sum({name: normalize(each, scale, eps) for name, each in values.items()}, weights)


def _weighted_sum(values: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[float]:
    if len({len(each) for each in values.values()}) > 1 or set(values) != set(weights):
        sizes = {name: len(each) for name, each in values.items()}
        raise RewardError(
            f"values {sizes} do not fit weights {dict(weights)}",
            "give each reward one weight and one value per rollout",
        )
    return [
        sum(weights[name] * value for name, value in zip(values, row, strict=True))
        for row in zip(*values.values(), strict=True)
    ]
