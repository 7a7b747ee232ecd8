"""`boxes`: boxes and points of several objects, matched one to one, by the rule of VisionReasoner.

The rule (Liu et al. 2025, arXiv:2505.12081, and its public reward code): a pair of objects earns one point each for box
IoU > 0.5, for mean box distance (L1 over the four coordinates) < 10 pixels, and for point distance < 30 pixels with the
predicted point inside its own box. The score is the points of the best one-to-one matching over the larger number of
objects, 0 to 3; the accuracy is a third of it. Gold answers without points, or with points alone, are scored by what
they have: 0 to 2 or 0 to 1, and the accuracy is the score over that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from covt_rewards.accuracy.assignment import assign
from covt_rewards.accuracy.graders import Grade, GradingTask
from covt_rewards.accuracy.located_objects import Box, LocatedObject, find_objects, last_fence, read_objects
from covt_rewards.answers import final_answer, first_tag
from covt_rewards.reward_errors import GoldError

IOU_ABOVE = 0.5
BOX_DISTANCE_BELOW = 10.0
POINT_DISTANCE_BELOW = 30.0
MAX_OBJECTS = 120


def compute_iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes; both corner pixels belong to a box."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    both = width * height
    union = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - both
    return both / union if union else 0.0


def score_pair(predicted: LocatedObject, gold: LocatedObject) -> int:
    """Score a pair of objects: a point for each measure that the gold object allows, 0 to 3."""
    points = 0
    if gold.box is not None and predicted.box is not None:
        distance = sum(abs(p - g) for p, g in zip(predicted.box, gold.box, strict=True)) / 4
        points += (compute_iou(predicted.box, gold.box) > IOU_ABOVE) + (distance < BOX_DISTANCE_BELOW)
    if gold.point is not None and predicted.point is not None:
        is_near = math.dist(predicted.point, gold.point) < POINT_DISTANCE_BELOW
        points += is_near and (gold.box is None or _is_inside(predicted))
    return points


def _is_inside(predicted: LocatedObject) -> bool:
    if predicted.box is None or predicted.point is None:
        return False
    x0, y0, x1, y1 = predicted.box
    return x0 <= predicted.point[0] <= x1 and y0 <= predicted.point[1] <= y1


def count_measures(gold: Sequence[LocatedObject]) -> int:
    """The most points that a pair can earn: 2 for a box and 1 for a point."""
    return 2 * any(each.box is not None for each in gold) + any(each.point is not None for each in gold)


def _lacks_measures(predicted: Sequence[LocatedObject], gold: Sequence[LocatedObject]) -> bool:
    """Whether a predicted object lacks a box or point that all gold objects have: the published rule is strict."""
    return any(
        all(getattr(each, name) is not None for each in gold) and any(getattr(each, name) is None for each in predicted)
        for name in ("box", "point")
    )


def score_matching(predicted: Sequence[LocatedObject], gold: Sequence[LocatedObject]) -> float:
    """Score the best one-to-one matching: its points over the larger number of objects, 0 to 3."""
    predicted, gold = predicted[:MAX_OBJECTS], gold[:MAX_OBJECTS]
    if not predicted or not gold or _lacks_measures(predicted, gold):
        return 0.0
    points = [[score_pair(p, g) for g in gold] for p in predicted]
    pairs = assign([[float(3 - value) for value in row] for row in points])
    return sum(points[i][j] for i, j in pairs) / max(len(predicted), len(gold))


def read_gold(text: str) -> list[LocatedObject]:
    """Read the gold objects; raises `GoldError` when there are none."""
    objects = read_objects(text)
    if not objects:
        message = f"the gold answer {text[:200]!r} holds no boxes"
        raise GoldError(message, 'give [{"bbox_2d": […], "point_2d": […]}, …] or [x0, y0, x1, y1]')
    return objects


def read_answer(text: str, lenient: bool = True) -> str:
    """Read the text that should hold objects: the first `<answer>` tag, as published, else the final answer.

    A lenient reader takes a text that is nothing but JSON, or the last fence of one without any other answer.
    """
    content = first_tag(text)
    if content is None:
        answer = final_answer(text, lenient)
        if lenient and answer.kind not in ("boxed", "tag", "open"):
            return last_fence(text) or (text.strip() if text.lstrip().startswith(("[", "{")) else answer.text)
        return answer.text
    return final_answer(content).text if "boxed" in content else content.strip()


def grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]:
    """Give the matching's points over the most possible. Parts: `points` (0 to 3, as published) and `objects`.

    Raises:
        GoldError: when the gold answer holds no objects.
    """
    gold = read_gold(task.gold)
    most = count_measures(gold)
    grades: list[Grade] = []
    for text in texts:
        content = read_answer(text, task.lenient)
        objects = find_objects(content) if task.lenient else read_objects(content)
        if objects is None:
            grades.append(Grade(0.0, "no boxes or points found", {"points": 0.0}))
            continue
        points = score_matching(objects, gold)
        reason = "" if points == most else f"{len(objects)} objects for {len(gold)}, {points:.3g} of {most} points"
        grades.append(Grade(points / most, reason, {"points": points, "objects": float(len(objects))}))
    return grades
