"""Rewards for veRL (https://github.com/volcengine/verl): `custom_reward_function.path=pkg://covt_rewards.adapters.verl`.

The reward manager decides `custom_reward_function.name`:

- `compute_score` for `naive`, `dapo` and the reward loop's managers, which pass one completion by keyword;
- `compute_number` for `prime`, which passes one completion by position and needs a plain number;
- `compute_score_batch` for `batch`, the only manager that passes whole groups.

`rewards` and `settings` come from `custom_reward_function.reward_kwargs`. `extra_info` may hold `grader`, `options`,
`metadata`, `question`, `index`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covt_rewards.adapters.grouping import configure_rewards, gather_groups, read_row, score_and_warn
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
    """Score one completion as `{"score": weighted sum, <reward>: value, …}`; veRL trains on `score` and logs the rest.

    `acc` repeats `accuracy`, because veRL's validation and DAPO's group filter look for that name.

    Args:
        data_source: name of the dataset.
        solution_str: the completion.
        ground_truth: the gold answer.
        extra_info: further fields of the row, see the module's docstring.
        rewards: names with weights, as in `parse_rewards`.
        settings: for each reward by name.
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
    """Return only the `score` of `compute_score`: `prime` counts anything but a number as 0."""
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
    """Score a batch; completions of the same question or index are one group.

    They need not be neighbors: veRL sorts a batch by length before scoring (`trainer.balance_batch`).

    Returns:
        A record per completion, in order, as from `compute_score`.

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
    groups, places = gather_groups(rows)
    records = [_records(score) for score in score_and_warn(groups, configure_rewards(rewards, settings), workers)]
    return [records[group][place] for group, place in places]


def _row(source: str, text: str, answer: str, info: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: info.get(name) for name in ("grader", "options", "metadata")}
    identifier = "" if info.get("index") is None else f"{source}/{info['index']}"  # an index counts within its source
    return {**known, "id": identifier, "prompt": info.get("question"), "answer": answer, "completion": text}


def _records(score: GroupScore) -> list[dict[str, float]]:
    values = score.values
    if "accuracy" in values:
        values["acc"] = values["accuracy"]
    return [
        {"score": total, **{name: each[i] for name, each in values.items()}} for i, total in enumerate(score.totals)
    ]
