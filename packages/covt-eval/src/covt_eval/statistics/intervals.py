"""Intervals for accuracies and their differences: Wilson's score interval and the percentile bootstrap over rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from covt_eval.eval_errors import EvalError

RESAMPLES = 10_000
CHUNK = 1_000
"""Resamples drawn at once, which bounds memory at CHUNK × rows."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence bounds, fractions in 0–1 (differences in −1–1)."""

    value: float
    low: float
    high: float


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a fraction (Wilson 1927, JASA 22, 209–212), sound near 0 and 1 and never outside.

    Args:
        successes: sum of the scores, in [0, n].
        n: number of scores.
        level: confidence level.

    Raises:
        EvalError: for no scores, or a level outside (0, 1).
    """
    _check(n, level)
    p = successes / n
    z = NormalDist().inv_cdf(0.5 + level / 2)
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, center - half), min(1.0, center + half))


def accuracy_interval(scores: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of scores with Wilson's interval."""
    return wilson_interval(float(np.sum(scores)), len(scores), level)


def paired_difference(
    ours: Sequence[float], base: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """mean(ours) − mean(base) over the same rows, with a percentile bootstrap over rows.

    Pairing removes the difficulty of the rows from the interval: only rows on which the two differ widen it.

    Args:
        ours: scores of some rows.
        base: scores of the same rows, in the same order.
        level: confidence level.
        resamples: number of bootstrap samples.
        seed: seed of the resampling.

    Raises:
        EvalError: for no scores, different numbers of scores, or a level outside (0, 1).
    """
    _check(len(ours), level)
    if len(ours) != len(base):
        raise EvalError(f"{len(ours)} outcomes against {len(base)}", "compare outcomes of the same rows")
    return _bootstrap(np.asarray(ours, float) - np.asarray(base, float), level, resamples, seed)


def bootstrap_mean(
    values: Sequence[float], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of values in 0–1 with a percentile bootstrap over rows.

    Where all values are 0, or all are 1, the bootstrap has no width, so the bounds are Wilson's.
    """
    _check(len(values), level)
    if len(set(values)) == 1 and values[0] in (0, 1):
        return accuracy_interval(values, level)
    return _bootstrap(np.asarray(values, float), level, resamples, seed)


def _bootstrap(values: NDArray[np.float64], level: float, resamples: int, seed: int) -> Interval:
    rng = np.random.default_rng(seed)
    counts = [min(CHUNK, resamples - drawn) for drawn in range(0, resamples, CHUNK)]
    means = np.concatenate([values[rng.integers(0, len(values), (count, len(values)))].mean(1) for count in counts])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def _check(count: int, level: float) -> None:
    if count < 1:
        raise EvalError("there are no outcomes", "evaluate at least one row")
    if not 0 < level < 1:
        raise EvalError(f"confidence level {level}", "use a level between 0 and 1, such as 0.95")
