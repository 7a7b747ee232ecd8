"""Groups from a trainer's flat batch, which repeats a prompt's columns for each of its completions."""

from __future__ import annotations

import json
import logging
import math
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


def read_row(row: Mapping[str, Any], where: str, may_lack_gold: bool = False) -> Group:
    """Read a row with one completion as a group.

    Args:
        row: `completion`; `answer`, `solution` or `ground_truth`; and optionally the other fields of `Group`. The
            prompt may be messages.
        where: what errors call the row.
        may_lack_gold: read a missing gold answer as empty text, on which rewards that need one fail.

    Raises:
        RewardError: for a field that is missing or of the wrong type.
    """
    answer = next((row[name] for name in ANSWER_NAMES if not _is_missing(row.get(name))), "" if may_lack_gold else None)
    fields = {name: _plain(row.get(name)) for name in ("id", "prompt", "grader", "options", "metadata")}
    fields["prompt"] = message_text(fields["prompt"])
    return Group.from_json({**fields, "answer": _plain(answer), "completions": [row["completion"]]}, where)


def _is_missing(value: object) -> bool:
    """Whether a cell is None, or NaN as data frames write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def message_text(message: Any) -> str:
    """Return the text of a string, a message or a list of messages, without the images in them."""
    if isinstance(message, Mapping):
        record = cast("Mapping[str, Any]", message)
        return message_text(record["content"] if "content" in record else record.get("text") or "")
    if isinstance(message, list):
        return "\n".join(filter(None, (message_text(part) for part in cast("list[Any]", message))))
    return message if isinstance(message, str) else ""


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
    """Score groups in order; a reward that fails counts 0 and is logged, unless the row has no gold answer."""
    scores = score_groups(groups, rewards, workers).groups
    for number, score in enumerate(scores):
        for name, problem in score.failures.items():
            if not (score.gold_problem and not groups[number].answer):
                logger.warning("reward %s failed on group %s: %s", name, score.id or number, problem)
    return scores
