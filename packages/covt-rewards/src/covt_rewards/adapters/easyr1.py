"""Rewards for EasyR1 (https://github.com/hiyouga/EasyR1): import `compute_score` in its reward file.

With `worker.reward.reward_type=batch` EasyR1 calls `compute_score(reward_inputs, **reward_function_kwargs)` with
records `{"response", "response_length", "ground_truth"}` and trains on each result's `overall`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from covt_rewards.adapters.grouping import configure_rewards, read_row, score_and_warn
from covt_rewards.reward_errors import RewardError

REWARD_NAME = "covt"
REWARD_TYPE = "batch"
DEFAULT_REWARDS = "format=0.1,accuracy=0.9"


def compute_score(
    reward_inputs: Sequence[Mapping[str, Any]],
    rewards: str = DEFAULT_REWARDS,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    workers: int = 1,
) -> list[dict[str, float]]:
    """Score a batch; each completion is a group of its own.

    EasyR1 passes no prompt and sorts a batch by length before scoring, so the groups cannot be recovered.

    Args:
        reward_inputs: one record per completion.
        rewards: names with weights, as in `parse_rewards`.
        settings: for each reward by name.
        workers: groups scored at once.

    Returns:
        `{"overall": weighted sum, <reward>: value, …}` per completion, in order.

    Raises:
        RewardError: for anything but a batch, and for a field of the wrong type.
    """
    if isinstance(reward_inputs, Mapping):
        raise RewardError("compute_score received one record, not a batch", "set worker.reward.reward_type=batch")
    rows = [
        read_row({**record, "completion": record["response"]}, f"reward_inputs[{i}]")
        for i, record in enumerate(reward_inputs)
    ]
    scores = score_and_warn(rows, configure_rewards(rewards, settings), workers)
    return [
        {"overall": total, **{name: results[i].value for name, results in score.results.items()}}
        for score in scores
        for i, total in enumerate(score.totals)
    ]
