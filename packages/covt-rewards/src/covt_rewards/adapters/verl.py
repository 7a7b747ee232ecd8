"""veRL: `custom_reward_function.path=pkg://covt_rewards.adapters.verl` (https://github.com/volcengine/verl).

`compute_score` is for veRL's `naive` reward manager, `compute_score_batch` (`custom_reward_function.name`) for `batch`;
only the latter sees groups. `rewards` and `settings` come from `custom_reward_function.reward_kwargs`.
`extra_info` may hold `grader`, `options`, `metadata`, `question`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covt_rewards.adapters.grouping import configured, join, read_row, scored
from covt_rewards.score import GroupScore

DEFAULT_REWARDS = "format=0.1,accuracy=0.9"


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    rewards: str = DEFAULT_REWARDS,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    **_: Any,
) -> dict[str, float]:
    """One completion: `{"score": weighted sum, <reward>: value, …}`; veRL trains on `score` and logs the rest."""
    (score,) = compute_score_batch(
        [data_source], [solution_str], [ground_truth], [extra_info], rewards=rewards, settings=settings
    )
    return score


def compute_score_batch(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[str],
    extra_infos: Sequence[Mapping[str, Any] | None] | None = None,
    rewards: str = DEFAULT_REWARDS,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    workers: int = 1,
    **_: Any,
) -> list[dict[str, float]]:
    """A batch, in order; neighbors with the same question and answer are one group.

    Raises:
        RewardError: for a field of the wrong type, naming source and number.
    """
    infos = extra_infos if extra_infos is not None else [None] * len(solution_strs)
    rows = [
        read_row(_row(text, answer, info or {}), f"{source or 'row'}[{i}]")
        for i, (source, text, answer, info) in enumerate(
            zip(data_sources, solution_strs, ground_truths, infos, strict=True)
        )
    ]
    scores = scored(join(rows), configured(rewards, settings), workers)
    return [record for score in scores for record in _records(score)]


def _row(text: str, answer: str, info: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: info.get(name) for name in ("grader", "options", "metadata")}
    return {**known, "prompt": info.get("question"), "answer": answer, "completion": text}


def _records(score: GroupScore) -> list[dict[str, float]]:
    return [
        {"score": total, **{name: results[i].value for name, results in score.results.items()}}
        for i, total in enumerate(score.totals)
    ]
