"""Intervals against published values, coverage, and the exact sampling distribution."""

from __future__ import annotations

import numpy as np
import pytest

from covt_eval.eval_errors import EvalError
from covt_eval.statistics.intervals import accuracy_interval, paired_difference


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson): 81/263, 15/148, 0/20, 1/29.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_published_intervals(right: int, n: int, low: float, high: float) -> None:
    interval = accuracy_interval([1] * right + [0] * (n - right))
    assert interval.value == right / n
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)


def test_paired_difference_is_tight_where_rows_agree() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2, 400)
    ours = base.copy()
    ours[np.flatnonzero(base == 0)[:40]] = 1
    paired = paired_difference(ours, base)
    assert paired.value == pytest.approx(0.1)
    # 40 of 400 rows differ, all one way: the standard error of the mean is sqrt(0.1 · 0.9 / 400).
    half = 1.96 * (0.1 * 0.9 / 400) ** 0.5
    assert paired.low == pytest.approx(0.1 - half, abs=0.006)
    assert paired.high == pytest.approx(0.1 + half, abs=0.006)
    shuffled = paired_difference(rng.permutation(ours), base)
    assert shuffled.high - shuffled.low > 2 * (paired.high - paired.low)


def test_the_bootstrap_is_repeatable_and_depends_on_the_seed() -> None:
    rng = np.random.default_rng(1)
    ours, base = rng.integers(0, 2, 97), rng.integers(0, 2, 97)
    assert paired_difference(ours, base, seed=3) == paired_difference(ours, base, seed=3)
    assert paired_difference(ours, base, seed=3) != paired_difference(ours, base, seed=4)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        interval = paired_difference(
            rng.random(80) < 0.7, rng.random(80) < 0.5, resamples=400, seed=int(rng.integers(1e9))
        )
        hits += interval.low <= 0.2 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize("call", [lambda: accuracy_interval([]), lambda: paired_difference([1], [1, 0])])
def test_nothing_to_compare_is_an_error(call) -> None:
    with pytest.raises(EvalError):
        call()
