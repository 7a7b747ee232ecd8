"""What an evaluation's rows say: accuracy, pass@k, majority, categories, paired differences, tokens, latency.

Every interval is a percentile bootstrap over *rows*: the samples of one row are not independent of each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import comb
from typing import Any

import numpy as np

from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.eval_rows import EvalRow
from covt_eval.statistics.intervals import bootstrap_mean, paired_difference
from covt_rewards.latents import count_closed_spans, span_usage

NO_CATEGORY = "(none)"


def by_row(rows: Sequence[EvalRow]) -> dict[str, list[EvalRow]]:
    """The samples of each row, rows in their order."""
    found: dict[str, list[EvalRow]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return found


def mean_scores(rows: Sequence[EvalRow]) -> dict[str, float]:
    """id → mean score of the row's samples."""
    return {key: float(np.mean([one.correct for one in samples])) for key, samples in by_row(rows).items()}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold a right one: 1 − C(n−c, k)/C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv:2107.03374, equation 1).
    """
    if not 1 <= k <= n:
        raise EvalError(f"pass@{k} of {n} samples", f"use a k from 1 to {n}")
    return 1.0 - comb(n - correct, k) / comb(n, k)


def majority(samples: Sequence[EvalRow]) -> float:
    """Score of the answer most samples give; of equally frequent ones the first given. No answer doesn't vote."""
    votes = Counter(one.answer.strip() for one in samples if one.answer.strip())
    if not votes:
        return 0.0
    winner = votes.most_common(1)[0][0]
    return next(one.correct for one in samples if one.answer.strip() == winner)


def powers_of_two(n: int) -> list[int]:
    """1, 2, 4, … and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def summarize(rows: Sequence[EvalRow]) -> dict[str, Any]:
    """Everything about one model, one set and one latent mode; intervals are `{"value", "low", "high"}`, 0–1."""
    groups = by_row(rows)
    scores = mean_scores(rows)
    samples = min(len(group) for group in groups.values())
    result: dict[str, Any] = {
        "rows": len(groups),
        "samples": samples,
        "accuracy": asdict(bootstrap_mean(list(scores.values()))),
        "by_category": _categories(groups, scores),
        "latents": _latents(rows),
        "tokens": _tokens(rows),
        "seconds": _seconds(rows),
        "cut_off": float(np.mean([row.finish_reason == "length" for row in rows])),
    }
    if samples > 1:
        counts = [(len(group), sum(one.correct == 1 for one in group)) for group in groups.values()]
        result["pass_at"] = {
            str(k): asdict(bootstrap_mean([pass_at_k(n, correct, k) for n, correct in counts]))
            for k in powers_of_two(samples)
        }
        result["majority"] = asdict(bootstrap_mean([majority(group) for group in groups.values()]))
    judges = sorted({name for row in rows for name in row.judges})
    if judges:
        result["judges"] = {
            name: asdict(bootstrap_mean([_mean_judge(group, name) for group in groups.values()])) for name in judges
        }
    return result


def compare(ours: Sequence[EvalRow], base: Sequence[EvalRow]) -> dict[str, float]:
    """Difference of the mean scores over the same rows with its paired interval.

    Raises:
        EvalError: the two were not asked the same rows.
    """
    left, right = mean_scores(ours), mean_scores(base)
    if left.keys() != right.keys():
        raise EvalError("the two evaluations have different rows", "evaluate both on the same set and rows")
    return asdict(paired_difference(list(left.values()), [right[key] for key in left]))


def _mean_judge(group: Sequence[EvalRow], name: str) -> float:
    return float(np.mean([one.judges.get(name, 0.0) for one in group]))


def _categories(groups: Mapping[str, Sequence[EvalRow]], scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for key, group in groups.items():
        found[group[0].category or NO_CATEGORY].append(scores[key])
    if set(found) == {NO_CATEGORY}:
        return {}
    return {
        name: {**asdict(bootstrap_mean(values)), "rows": len(values)}
        for name, values in sorted(found.items(), key=lambda item: _natural(item[0]))
    }


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts `2 hops` before `10 hops`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split()]


def _latents(rows: Sequence[EvalRow]) -> dict[str, Any]:
    """`trigger_rate` (share of answers with a well-formed span, with its interval), `spans` per answer, and accuracy.

    `accuracy_with` and `accuracy_without` are of the answers with a span and without one; None where there are none.
    """
    used = {key: float(np.mean([count_closed_spans(one) > 0 for one in group])) for key, group in by_row(rows).items()}
    accuracy: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        accuracy[count_closed_spans(row) > 0].append(row.correct)
    return {
        "trigger_rate": asdict(bootstrap_mean(list(used.values()))),
        "spans": span_usage(rows).spans,
        "accuracy_with": float(np.mean(accuracy[True])) if accuracy[True] else None,
        "accuracy_without": float(np.mean(accuracy[False])) if accuracy[False] else None,
    }


def _tokens(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Means a completion: all its tokens, its latent pads, its latent spans, and the prompt's."""
    pads = [sum(end - start for start, end in row.latent_spans) for row in rows]
    return {
        "completion": float(np.mean([len(row.token_ids) for row in rows])),
        "latent": float(np.mean(pads)),
        "spans": float(np.mean([len(row.latent_spans) for row in rows])),
        "prompt": float(np.mean([row.prompt_tokens for row in rows])),
    }


def _seconds(rows: Sequence[EvalRow]) -> dict[str, float]:
    """Seconds from request to answer: mean, median and 95th percentile; {} for continuations, which aren't timed."""
    known = [row.seconds for row in rows if row.seconds is not None]
    if not known:
        return {}
    return {
        "mean": float(np.mean(known)),
        "p50": float(np.quantile(known, 0.5)),
        "p95": float(np.quantile(known, 0.95)),
    }
