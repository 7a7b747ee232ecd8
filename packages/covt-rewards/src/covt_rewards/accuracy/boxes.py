"""`boxes`: boxes and points of several objects, matched one to one, by the rule of VisionReasoner.

The rule (Liu et al. 2025, arXiv:2505.12081, and its public reward code): a pair of objects earns one point each for box
IoU > 0.5, for mean box distance (L1 over the four coordinates) < 10 pixels, and for point distance < 30 pixels with the
predicted point inside its own box. The score is the points of the best one-to-one matching over the larger number of
objects, 0 to 3; the accuracy is a third of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from covt_rewards.accuracy.assignment import assign
from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.answers import final_answer, first_tag
from covt_rewards.reward_errors import GoldError

IOU_ABOVE = 0.5
BOX_DISTANCE_BELOW = 10.0
POINT_DISTANCE_BELOW = 30.0
MAX_OBJECTS = 120
MAX_CHARACTERS = 200_000

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LocatedObject:
    """One object: box (x0, y0, x1, y1) and point (x, y), in pixels."""

    box: Box
    point: Point


def read_objects(text: str) -> list[LocatedObject] | None:
    """Read the objects of `[{"bbox_2d": [x0, y0, x1, y1], "point_2d": [x, y]}, …]`; None for anything else."""
    try:
        data: object = json.loads(text[:MAX_CHARACTERS])
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, list):
        return None
    objects: list[LocatedObject] = []
    for item in cast("list[object]", data):
        if not isinstance(item, dict):
            return None
        record = cast("Mapping[str, object]", item)
        box, point = _numbers(record.get("bbox_2d"), 4), _numbers(record.get("point_2d"), 2)
        if box is None or point is None:
            return None
        objects.append(LocatedObject((box[0], box[1], box[2], box[3]), (point[0], point[1])))
    return objects


def _numbers(value: object, count: int) -> list[float] | None:
    if not isinstance(value, list):
        return None
    values = cast("list[object]", value)
    if len(values) != count:
        return None
    numbers: list[float] = []
    for number in values:
        # Larger than any image, and safe from overflow in the arithmetic below.
        if not isinstance(number, int | float) or not -1e9 < number < 1e9:
            return None
        numbers.append(float(number))
    return numbers


def compute_iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes; both corner pixels belong to a box."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    both = width * height
    union = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - both
    return both / union if union else 0.0


def score_pair(predicted: LocatedObject, gold: LocatedObject) -> int:
    """Score a pair of objects: 0 to 3 points."""
    x0, y0, x1, y1 = predicted.box
    x, y = predicted.point
    distance = sum(abs(p - g) for p, g in zip(predicted.box, gold.box, strict=True)) / 4
    inside = x0 <= x <= x1 and y0 <= y <= y1
    return (
        (compute_iou(predicted.box, gold.box) > IOU_ABOVE)
        + (distance < BOX_DISTANCE_BELOW)
        + (inside and math.dist(predicted.point, gold.point) < POINT_DISTANCE_BELOW)
    )


def score_matching(predicted: Sequence[LocatedObject], gold: Sequence[LocatedObject]) -> float:
    """Score the best one-to-one matching: its points over the larger number of objects, 0 to 3."""
    predicted, gold = predicted[:MAX_OBJECTS], gold[:MAX_OBJECTS]
    if not predicted or not gold:
        return 0.0
    points = [[score_pair(p, g) for g in gold] for p in predicted]
    pairs = assign([[float(3 - value) for value in row] for row in points])
    return sum(points[i][j] for i, j in pairs) / max(len(predicted), len(gold))


def read_gold(text: str) -> list[LocatedObject]:
    """Read the gold objects; raises `GoldError` when there are none."""
    objects = read_objects(text)
    if not objects:
        raise GoldError(f"the gold answer {text[:200]!r} holds no boxes", 'give [{"bbox_2d": […], "point_2d": […]}, …]')
    return objects


def read_answer(text: str, lenient: bool = True) -> str:
    """Read the text that should hold objects: the first `<answer>` tag, as published, else the final answer."""
    content = first_tag(text)
    return final_answer(text, lenient).text if content is None else content.strip()


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give a third of the matching's points. Parts: `points` (0 to 3, as published) and `objects`.

    Raises:
        GoldError: when the gold answer holds no objects.
    """
    gold = read_gold(task.gold)
    grades: list[Grade] = []
    for text in texts:
        objects = read_objects(read_answer(text, task.lenient))
        if objects is None:
            grades.append(Grade(0.0, "no list of boxes and points found", {"points": 0.0}))
            continue
        points = score_matching(objects, gold)
        reason = "" if points == 3 else f"{len(objects)} objects for {len(gold)}, {points:.3g} of 3 points"
        grades.append(Grade(points / 3, reason, {"points": points, "objects": float(len(objects))}))
    return grades
