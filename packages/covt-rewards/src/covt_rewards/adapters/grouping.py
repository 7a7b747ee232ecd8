"""From a trainer's flat batch to groups and back; trainers repeat a prompt's columns for each of its completions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, cast

from covt_rewards.registry import ConfiguredReward, parse_rewards
from covt_rewards.score import GroupScore, score_groups
from covt_rewards.types import Group

logger = logging.getLogger("covt_rewards")
ANSWER_NAMES = ("answer", "solution", "ground_truth")


def configured(
    rewards: str, settings: Mapping[str, Mapping[str, object]] | None, common: Mapping[str, object] | None = None
) -> list[ConfiguredReward]:
    """`parse_rewards`, once for equal arguments: trainers call with the same ones at every step."""
    if common:
        return parse_rewards(rewards, settings, common)
    return _configured(rewards, json.dumps(settings or {}, sort_keys=True))


@cache
def _configured(rewards: str, settings: str) -> list[ConfiguredReward]:
    return parse_rewards(rewards, cast("dict[str, dict[str, object]]", json.loads(settings)))


def read_row(row: Mapping[str, Any], where: str) -> Group:
    """A group of one completion, from `{"answer" | "solution" | "ground_truth", "completion", …}` as in `Group`.

    Raises:
        RewardError: naming `where` and the field.
    """
    answer = next((row[name] for name in ANSWER_NAMES if row.get(name) is not None), None)
    fields = {name: _plain(row.get(name)) for name in ("id", "prompt", "grader", "options", "metadata")}
    return Group.from_json({**fields, "answer": _plain(answer), "completions": [row["completion"]]}, where)


def _plain(value: Any) -> Any:
    """Arrays, which Parquet columns become in some trainers, as lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def join(rows: Iterable[Group]) -> list[Group]:
    """Neighbors with the same prompt and answer are one group."""
    groups: list[Group] = []
    for row in rows:
        last = groups[-1] if groups else None
        if last is not None and replace(last, rollouts=()) == replace(row, rollouts=()):
            groups[-1] = replace(last, rollouts=(*last.rollouts, *row.rollouts))
        else:
            groups.append(row)
    return groups


def gather(rows: Sequence[Group]) -> tuple[list[Group], list[tuple[int, int]]]:
    """Rows of the same prompt, wherever they stand, as groups; and for each row its group and its place in it.

    For trainers that reorder a batch before they score it. A row without an id and a prompt is a group of its own.
    """
    places: list[tuple[int, int]] = []
    members: dict[str, list[Group]] = {}
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows):
        known = bool(row.id or row.prompt)
        key = json.dumps(replace(row, rollouts=()).to_json(), sort_keys=True, default=str) if known else str(number)
        same = members.setdefault(key, [])
        same.append(row)
        places.append((numbers.setdefault(key, len(numbers)), len(same) - 1))
    groups = [
        replace(same[0], rollouts=tuple(rollout for row in same for rollout in row.rollouts))
        for same in members.values()
    ]
    return groups, places


def scored(groups: Sequence[Group], rewards: Sequence[ConfiguredReward], workers: int = 1) -> tuple[GroupScore, ...]:
    """Scores in order; what failed is counted 0 and logged as a warning."""
    scores = score_groups(groups, rewards, workers).groups
    for number, score in enumerate(scores):
        for name, problem in score.failures.items():
            logger.warning("reward %s failed on group %s: %s", name, score.id or number, problem)
    return scores
