"""Rows of the `vsp` task: question, plan, and the helper images of the path so far."""

from __future__ import annotations

import json
from collections.abc import Sequence

from covt_data.schema import Image, Row, Step
from covt_data.tasks.grid import cell_box
from covt_data.tasks.vsp_maps import shortest_plan
from covt_data.tasks.vsp_render import LOOKS, draw_vsp
from covt_rewards.tasks.vsp_plan import walk_plan

HELPER_IMAGES = 8
MOVE_WORDS = {"U": "up", "D": "down", "L": "left", "R": "right"}
QUESTION = "<image>Plan a path from start to goal that avoids the holes."


def moves_shown(length: int) -> list[int]:
    """Return how many moves each helper image shows: 1, 2, …, or evenly spread numbers for a plan of over 8 moves."""
    if length <= HELPER_IMAGES:
        return [min(h, length) for h in range(1, HELPER_IMAGES + 1)]
    return [round(h * length / HELPER_IMAGES) for h in range(1, HELPER_IMAGES + 1)]


def prompt_row(rows: Sequence[str], row_id: str, split: str, image: Image, steps: list[Step], **more: object) -> Row:
    """Build the row of a map from its image. `more` is added to the metadata `rows`, `plan` and `path`."""
    plan = shortest_plan(rows)
    assert plan is not None, f"{row_id} has no solution"
    meta = {"rows": list(rows), "plan": plan, "path": walk_plan(rows, plan).cells, **more}
    return Row(
        id=row_id,
        source="vsp",
        split=split,
        category=f"level {len(rows)}",
        question=QUESTION,
        images=[image],
        answer=",".join(plan),
        grader="vsp",
        steps=steps,
        metadata=json.dumps(meta, separators=(",", ":")),
    )


def plan_in_words(plan: Sequence[str]) -> str:
    """`Go right, right, down: 3 moves.`"""
    moves = ", ".join(MOVE_WORDS[move] for move in plan)
    return f"Go {moves}: {len(plan)} move{'s' if len(plan) > 1 else ''}."


def make_row(rows: Sequence[str], index: int, split: str, with_steps: bool, words: bool = False) -> Row:
    """Build the row of a generated map.

    Args:
        rows: the map.
        index: number within the split, for the id and the look.
        split: name of the split.
        with_steps: add one latent step of 8 helper images and the answer as text.
        words: put the plan in words between the two.
    """
    plan = shortest_plan(rows)
    assert plan is not None, "generated maps have a solution"
    path, look = walk_plan(rows, plan).cells, index % LOOKS
    steps: list[Step] = []
    focus: dict[str, object] = {}
    if with_steps:
        shown = moves_shown(len(plan))
        drawn = {n: Image(bytes=draw_vsp(rows, path[: n + 1], plan[:n], look)) for n in dict.fromkeys(shown)}
        steps.append(Step(type="latent", images=[drawn[n] for n in shown]))
        if words:
            steps.append(Step(type="text", text=plan_in_words(plan)))
        steps.append(Step(type="text", text=f"\\boxed{{{','.join(plan)}}}"))
        focus["focus"] = [[cell_box(path[n]) for n in shown]]
    image = Image(bytes=draw_vsp(rows, path[:1], [], look))
    return prompt_row(rows, f"vsp-{split}-{index:06d}", split, image, steps, **focus)
