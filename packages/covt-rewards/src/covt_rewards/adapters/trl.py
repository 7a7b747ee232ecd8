"""TRL: `GRPOTrainer(reward_funcs=reward_funcs("format,accuracy"), …)` (https://github.com/huggingface/trl).

TRL calls each function with `prompts`, `completions`, `completion_ids` and the data set's columns. Read are `answer`
(or `solution`, `ground_truth`), `grader`, `options`, `metadata`, `id`, and `ablated` and `control`: per completion a
list of continuations, where a `rollout_func` gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from covt_rewards.adapters.grouping import configured, join, read_row, scored
from covt_rewards.registry import ConfiguredReward
from covt_rewards.types import RewardResult

_COLUMNS = ("answer", "solution", "ground_truth", "grader", "options", "metadata", "id")


class RewardFunc:
    """One reward as TRL wants it: a named callable, one number a completion, None where it does not apply.

    Attributes:
        weight: what `reward_weights` should hold for it.
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
        """None for the completions of a group on which the reward failed, such as one with an unreadable gold answer.

        Raises:
            RewardError: for a column that is missing or of the wrong type.
        """
        rows = [
            read_row(_row(i, prompt, completion, completion_ids, columns), f"example {i}")
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        values: list[float | None] = []
        results: list[RewardResult] = []
        for score in scored(join(rows), [self._reward], self._workers):
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
    """A function for each named reward; arguments as in `parse_rewards`, `workers` as in `score_groups`."""
    return [RewardFunc(reward, workers) for reward in configured(rewards, settings, common)]


def reward_weights(functions: Sequence[RewardFunc]) -> list[float]:
    """`GRPOConfig(reward_weights=…)` for functions with weights, such as those of `format=0.1,accuracy`."""
    return [function.weight for function in functions]


def _row(
    i: int, prompt: Any, completion: Any, ids: Sequence[Sequence[int]] | None, columns: Mapping[str, Any]
) -> dict[str, Any]:
    row: dict[str, Any] = {name: columns[name][i] for name in _COLUMNS if name in columns}
    record: dict[str, Any] = {"text": _text(completion), "token_ids": list(ids[i]) if ids is not None else []}
    for name in ("ablated", "control"):
        if columns.get(name) is not None:
            continuations: list[Any] = columns[name][i] or []
            record[name] = [_text(each) for each in continuations]
    return {**row, "prompt": _text(prompt), "completion": record}


def _text(message: Any) -> str:
    """The text of a string, of a message, or of a conversation's messages; pictures in them are left out."""
    if isinstance(message, Mapping):
        record = cast("Mapping[str, Any]", message)
        return _text(record["content"] if "content" in record else record.get("text") or "")
    if isinstance(message, list):
        return "\n".join(filter(None, (_text(part) for part in cast("list[Any]", message))))
    return message if isinstance(message, str) else ""


def _log_parts(name: str, results: Sequence[RewardResult], log_metric: Callable[[str, float], None]) -> None:
    for part in dict.fromkeys(part for result in results for part in result.parts):
        log_metric(f"{name}/{part}", fmean(result.parts[part] for result in results if part in result.parts))


__all__ = ["RewardFunc", "reward_funcs", "reward_weights"]
