"""veRL: `custom_reward_function.path=pkg://covt_rewards.adapters.verl` (https://github.com/volcengine/verl).

`custom_reward_function.name` goes with the reward manager: `compute_score` with `naive`, `dapo` and the reward loop's,
which call it with keywords for one completion; `compute_number` with `prime`, which calls by position and wants a bare
number; `compute_score_batch` with `batch`, the only one that shows whole groups. `rewards` and `settings` come from
`custom_reward_function.reward_kwargs`. `extra_info` may hold `grader`, `options`, `metadata`, `question`, `index`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covt_rewards.adapters.grouping import configured, gather, read_row, scored
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
    """One completion: `{"score": weighted sum, <reward>: value, …}`; veRL trains on `score` and logs the rest.

    `acc` is `accuracy` once more: veRL's validation and DAPO's filter of groups look for that name.
    """
    (score,) = compute_score_batch(
        [data_source], [solution_str], [ground_truth], [extra_info], rewards=rewards, settings=settings
    )
    return score


def compute_number(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any] | None = None,
    **settings: Any,
) -> float:
    """The `score` of `compute_score` alone: `prime` takes 0 for whatever is no number."""
    return compute_score(data_source, solution_str, ground_truth, extra_info, **settings)["score"]


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
    """A batch, in order; completions of the same question or index are one group.

    They need not be neighbors: veRL sorts a batch by length before it is scored (`trainer.balance_batch`).

    Raises:
        RewardError: for a field of the wrong type, naming source and number.
    """
    infos = extra_infos if extra_infos is not None else [None] * len(solution_strs)
    rows = [
        read_row(_row(source, text, answer, info or {}), f"{source or 'row'}[{i}]")
        for i, (source, text, answer, info) in enumerate(
            zip(data_sources, solution_strs, ground_truths, infos, strict=True)
        )
    ]
    groups, places = gather(rows)
    records = [_records(score) for score in scored(groups, configured(rewards, settings), workers)]
    return [records[group][place] for group, place in places]


def _row(source: str, text: str, answer: str, info: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: info.get(name) for name in ("grader", "options", "metadata")}
    identifier = "" if info.get("index") is None else f"{source}/{info['index']}"  # counted within a source
    return {**known, "id": identifier, "prompt": info.get("question"), "answer": answer, "completion": text}


def _records(score: GroupScore) -> list[dict[str, float]]:
    values = score.values
    if "accuracy" in values:
        values["acc"] = values["accuracy"]
    return [
        {"score": total, **{name: each[i] for name, each in values.items()}} for i, total in enumerate(score.totals)
    ]
