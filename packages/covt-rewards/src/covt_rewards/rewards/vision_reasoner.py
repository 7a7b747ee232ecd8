"""`vision_reasoner`: the whole reward of VisionReasoner (arXiv:2505.12081), number for number.

Format 0 to 3, matching 0 to 3 (see `accuracy/boxes.py`), 1 for not repeating sentences: 0 to 7 in total.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from covt_rewards.accuracy.boxes import read_gold, score_matching
from covt_rewards.accuracy.located_objects import MAX_CHARACTERS, read_objects
from covt_rewards.answers import first_tag
from covt_rewards.types import Group, RewardResult

_BETWEEN = re.compile(r"</think>\s*<answer>")


@dataclass(frozen=True, slots=True)
class VisionReasonerReward:
    """The sum of its parts `format`, `accuracy` and `non_repeat`."""

    def __call__(self, group: Group) -> list[RewardResult]:
        """Score every rollout; raises `GoldError` when the gold answer holds no objects."""
        gold = read_gold(group.answer)
        results: list[RewardResult] = []
        for rollout in group.rollouts:
            content = first_tag(rollout.text)
            objects = None if content is None else read_objects(content)
            parts = {
                "format": _score_tags(rollout.text) + (0.0 if content is None else _score_json(content)),
                "accuracy": score_matching(objects, gold) if objects else 0.0,
                "non_repeat": float(_count_repeats(rollout.text) < 2),
            }
            reason = "" if objects else "no list of boxes and points in <answer>"
            results.append(RewardResult(sum(parts.values()), parts, reason))
        return results


def _score_tags(text: str) -> float:
    """Give 1 for `<think>…</think> <answer>…</answer>` with nothing around it."""
    return float(text.startswith("<think>") and text.endswith("</answer>") and _BETWEEN.search(text) is not None)


def _score_json(answer: str) -> float:
    """Give the mean number of well-formed `bbox_2d` and `point_2d` per listed object, 0 to 2."""
    try:
        data: object = json.loads(answer[:MAX_CHARACTERS])
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(data, list):
        return 0.0
    total = 0.0
    items = cast("list[object]", data)
    for item in items:
        if not isinstance(item, dict):
            break
        record = cast("Mapping[str, object]", item)
        for name, count in (("bbox_2d", 4), ("point_2d", 2)):
            value = record.get(name)
            total += isinstance(value, list) and len(cast("list[object]", value)) == count
    return total / len(items) if items else 0.0


def _count_repeats(text: str) -> int:
    """Count the sentences (split at full stops) that repeat an earlier one."""
    sentences = [sentence.strip() for sentence in text.split(".")]
    sentences = [sentence for sentence in sentences if sentence]
    return len(sentences) - len(set(sentences))
