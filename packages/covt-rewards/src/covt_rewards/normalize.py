"""From rewards to advantages within a group: sum then normalize, or normalize each reward and then sum.

The first is GRPO's (Shao et al. 2024, arXiv:2402.03300). The second keeps a rare reward from drowning in a noisy one.
Either way a constant added to all of a group cancels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from covt_rewards.reward_errors import RewardError


def normalize(values: Sequence[float], scale: bool = True, eps: float = 1e-6) -> list[float]:
    """Deviations from the group's mean, over its sample standard deviation (n − 1) + eps when `scale`.

    A group of one, or of equal values, gives zeros.
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
    """One group's advantages, from the weighted sum of its rewards.

    Args:
        values: per reward, one unweighted value per rollout.
        weights: per reward.
    """
    return normalize(_weighted_sum(values, weights), scale, eps)


def normalize_then_sum(
    values: Mapping[str, Sequence[float]], weights: Mapping[str, float], scale: bool = True, eps: float = 1e-6
) -> list[float]:
    """One group's advantages, the weighted sum of each reward's own normalized values; arguments as above."""
    return _weighted_sum({name: normalize(each, scale, eps) for name, each in values.items()}, weights)


def _weighted_sum(values: Mapping[str, Sequence[float]], weights: Mapping[str, float]) -> list[float]:
    if len({len(each) for each in values.values()}) > 1 or set(values) != set(weights):
        sizes = {name: len(each) for name, each in values.items()}
        raise RewardError(
            f"values {sizes} do not fit weights {dict(weights)}", "one weight and one value per rollout each"
        )
    return [
        sum(weights[name] * value for name, value in zip(values, row, strict=True))
        for row in zip(*values.values(), strict=True)
    ]
