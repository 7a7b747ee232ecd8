"""Rewards for TRL (https://github.com/huggingface/trl): `GRPOTrainer(reward_funcs=reward_funcs("format,accuracy"), …)`.

TRL calls each function with `prompts`, `completions`, `completion_ids` and the dataset's columns. The functions read
`answer` (or `solution`, `ground_truth`), `grader`, `options`, `metadata` and `id`. They also read `ablated` and
`control`, which hold a list of continuations per completion where a `rollout_func` provides them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from covt_rewards.adapters.grouping import (
    ANSWER_NAMES,
    configure_rewards,
    join_neighbors,
    message_text,
    read_row,
    score_and_warn,
)
from covt_rewards.registry import ConfiguredReward
from covt_rewards.types import RewardResult

_COLUMNS = ("answer", "solution", "ground_truth", "grader", "options", "metadata", "id")


class RewardFunc:
    """One reward in TRL's form: a named callable that returns one number per completion, or None.

    Attributes:
        weight: its entry in `GRPOConfig(reward_weights=…)`.
    """

    def __init__(self, reward: ConfiguredReward, workers: int = 1) -> None:
        self.__name__ = reward.name
        self.weight = reward.weight
        self._reward = reward
        self._workers = workers

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch; None for the completions of a row without a gold answer and of a group on which it failed.

        Raises:
            RewardError: for a column that is missing or of the wrong type.
        """
        has_gold = any(name in columns for name in ANSWER_NAMES)
        rows = [
            read_row(_row(i, prompt, completion, completion_ids, columns), f"example {i}", has_gold)
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        values: list[float | None] = []
        results: list[RewardResult] = []
        for score in score_and_warn(join_neighbors(rows), [self._reward], self._workers):
            given = score.results[self._reward.name]
            values += [None] * len(given) if score.failures else [result.value for result in given]
            results += () if score.failures else given
        if log_metric is not None:
            _log_parts(self.__name__, results, log_metric)
        return values


def reward_funcs(
    rewards: str = "format,accuracy",
    settings: Mapping[str, Mapping[str, object]] | None = None,
    common: Mapping[str, object] | None = None,
    workers: int = 1,
) -> list[RewardFunc]:
    """Make one function per named reward.

    Args:
        rewards: names with weights, as in `parse_rewards`.
        settings: for each reward by name.
        common: settings for every reward that has them, such as `latent`.
        workers: groups scored at once.
    """
    return [RewardFunc(reward, workers) for reward in configure_rewards(rewards, settings, common)]


def reward_weights(functions: Sequence[RewardFunc]) -> list[float]:
    """Return the weights of functions for `GRPOConfig(reward_weights=…)`."""
    return [function.weight for function in functions]


def _row(
    i: int, prompt: Any, completion: Any, ids: Sequence[Sequence[int]] | None, columns: Mapping[str, Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {name: columns[name][i] for name in _COLUMNS if name in columns}
    record: dict[str, Any] = {"text": message_text(completion), "token_ids": list(ids[i]) if ids is not None else []}
    for name in ("ablated", "control"):
        if columns.get(name) is not None:
            continuations: list[Any] = columns[name][i] or []
            record[name] = [message_text(each) for each in continuations]
    return {**row, "prompt": message_text(prompt), "completion": record}


def _log_parts(name: str, results: Sequence[RewardResult], log_metric: Callable[[str, float], None]) -> None:
    for part in dict.fromkeys(part for result in results for part in result.parts):
        log_metric(f"{name}/{part}", fmean(result.parts[part] for result in results if part in result.parts))


__all__ = ["RewardFunc", "reward_funcs", "reward_weights"]
