"""Groups from a trainer's flat batch, which repeats a prompt's columns for each of its completions."""

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


def configure_rewards(
    rewards: str, settings: Mapping[str, Mapping[str, object]] | None, common: Mapping[str, object] | None = None
) -> list[ConfiguredReward]:
    """Call `parse_rewards` once for equal arguments; trainers pass the same arguments at every step."""
    if common:
        return parse_rewards(rewards, settings, common)
    return _configure_cached(rewards, json.dumps(settings or {}, sort_keys=True))


@cache
def _configure_cached(rewards: str, settings: str) -> list[ConfiguredReward]:
    return parse_rewards(rewards, cast("dict[str, dict[str, object]]", json.loads(settings)))


def read_row(row: Mapping[str, Any], where: str) -> Group:
    """Read a row with one completion as a group.

    Args:
        row: `completion`; `answer`, `solution` or `ground_truth`; and optionally the other fields of `Group`.
        where: what errors call the row.

    Raises:
        RewardError: for a field that is missing or of the wrong type.
    """
    answer = next((row[name] for name in ANSWER_NAMES if row.get(name) is not None), None)
    fields = {name: _plain(row.get(name)) for name in ("id", "prompt", "grader", "options", "metadata")}
    return Group.from_json({**fields, "answer": _plain(answer), "completions": [row["completion"]]}, where)


def _plain(value: Any) -> Any:
    """Convert arrays to lists; some trainers read Parquet columns as arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def join_neighbors(rows: Iterable[Group]) -> list[Group]:
    """Join neighboring rows with the same prompt and answer into one group."""
    groups: list[Group] = []
    for row in rows:
        last = groups[-1] if groups else None
        if last is not None and replace(last, rollouts=()) == replace(row, rollouts=()):
            groups[-1] = replace(last, rollouts=(*last.rollouts, *row.rollouts))
        else:
            groups.append(row)
    return groups


def gather_groups(rows: Sequence[Group]) -> tuple[list[Group], list[tuple[int, int]]]:
    """Gather the rows of each prompt into a group, for trainers that reorder a batch before scoring.

    A row without an id and a prompt is a group of its own.

    Returns:
        The groups; and for each row the index of its group and its index in the group.
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


def score_and_warn(
    groups: Sequence[Group], rewards: Sequence[ConfiguredReward], workers: int = 1
) -> tuple[GroupScore, ...]:
    """Score groups in order; a reward that fails counts 0 and is logged as a warning."""
    scores = score_groups(groups, rewards, workers).groups
    for number, score in enumerate(scores):
        for name, problem in score.failures.items():
            logger.warning("reward %s failed on group %s: %s", name, score.id or number, problem)
    return scores
