"""Intervals for accuracies and their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from covt_rollout.rollout_errors import RolloutError

RESAMPLES = 10_000
CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, fractions in 0–1 (differences in −1–1)."""

    value: float
    low: float
    high: float


def accuracy(correct: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of 0/1 outcomes with Wilson's score interval (Wilson 1927), which stays inside 0–1 and is sound near it."""
    _check(correct, level)
    n, p = len(correct), float(np.mean(correct))
    z = NormalDist().inv_cdf(0.5 + level / 2)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, center - half), min(1.0, center + half))


def paired_difference(
    ours: Sequence[float], base: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """mean(ours) − mean(base) over the same rows, with a percentile bootstrap over rows.

    Pairing removes the rows' difficulty from the interval: only rows on which the two differ widen it.
    """
    _check(ours, level)
    if len(ours) != len(base):
        raise RolloutError(f"{len(ours)} outcomes against {len(base)}", "compare outcomes of the same rows")
    return _bootstrap(np.asarray(ours, float) - np.asarray(base, float), level, resamples, seed)


def bootstrap_mean(
    values: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of values in 0–1 with a percentile bootstrap over rows.

    Where all values are 0, or all are 1, the bootstrap has no width; the bounds are Wilson's then.
    """
    _check(values, level)
    if len(set(values)) == 1 and values[0] in (0, 1):
        return accuracy(values, level)
    return _bootstrap(np.asarray(values, float), level, resamples, seed)


def _bootstrap(values: np.ndarray, level: float, resamples: int, seed: int) -> Interval:
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(0, len(values), (count, len(values)))].mean(1) for count in _chunks(resamples)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _chunks(total: int) -> list[int]:
    """Resamples in parts, so that memory stays at CHUNK × rows."""
    return [min(CHUNK, total - begun) for begun in range(0, total, CHUNK)]


def _check(outcomes: Sequence[float], level: float) -> None:
    if not len(outcomes):
        raise RolloutError("there are no outcomes", "evaluate at least one row")
    if not 0 < level < 1:
        raise RolloutError(f"confidence level {level}", "use a level between 0 and 1, such as 0.95")
