"""Rows of the `vsp` task: question, plan, and the helper images: sets of cells, or the map with the path so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from covt_data.schema import Image, Row, Step
from covt_data.tasks.grid import CELL_PIXELS, cell_box
from covt_data.tasks.vsp_maps import shortest_plan
from covt_data.tasks.vsp_render import LOOKS, draw_vsp
from covt_data.tasks.vsp_sets import draw_set, latent_sets
from covt_rewards.tasks.vsp_plan import walk_plan

MOVE_WORDS = {"U": "up", "D": "down", "L": "left", "R": "right"}
QUESTION = "Plan a path from start to goal that avoids the holes.<image>"
"""The image comes last, so that the tokens of the text are the same distance from every cell of a column."""

Latents = Literal["wavefront", "wave", "path", "trail"]
Box = list[int]


@dataclass(frozen=True)
class StepStyle:
    """How a plan is worked out before it is given.

    Attributes:
        latents: `wavefront`, `wave` and `path` are sets of cells (`vsp_sets`); `trail` is one segment of maps with the
            path so far.
        size: helper images, and so latents, per segment.
        words: put the plan in words between latents and answer.
    """

    latents: Latents = "wavefront"
    size: int = 8
    words: bool = False

    @property
    def most_moves(self) -> int | None:
        """The longest plan that the sets show whole; None for `trail`, which leaves out moves of longer plans."""
        return None if self.latents == "trail" else self.size - 1


def moves_shown(length: int, count: int) -> list[int]:
    """Return how many moves each of `count` maps shows: 1, 2, ..., or evenly spread numbers for a longer plan."""
    if length <= count:
        return [min(h, length) for h in range(1, count + 1)]
    return [round(h * length / count) for h in range(1, count + 1)]


def prompt_row(
    rows: Sequence[str], row_id: str, split: str, image: Image, steps: list[Step], style: StepStyle, **more: object
) -> Row:
    """Build the row of a map from its image.

    The metadata is `rows`, `plan`, `path`, the kind and number of latents per segment, and `more`.
    """
    plan = shortest_plan(rows)
    assert plan is not None, f"{row_id} has no solution"
    meta = {
        "rows": list(rows),
        "plan": plan,
        "path": walk_plan(rows, plan).cells,
        "latents": style.latents,
        "latent_size": style.size,
        **more,
    }
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


def latent_steps(
    rows: Sequence[str], plan: Sequence[str], look: int, style: StepStyle
) -> tuple[list[Step], dict[str, object]]:
    """Return the latent steps of a map, and the metadata of their helper images: focus boxes and names."""
    if style.latents == "trail":
        path, shown = walk_plan(rows, plan).cells, moves_shown(len(plan), style.size)
        drawn = {n: Image(bytes=draw_vsp(rows, path[: n + 1], plan[:n], look)) for n in dict.fromkeys(shown)}
        return [Step(type="latent", images=[drawn[n] for n in shown])], {"focus": [[cell_box(path[n]) for n in shown]]}
    segments = latent_sets(rows, style.latents, style.size)
    steps = [Step(type="latent", images=[draw_set(one.marks) for one in sets]) for sets in segments]
    whole: Box = [0, 0, CELL_PIXELS, CELL_PIXELS]
    return steps, {
        "focus": [[whole] * style.size for _ in segments],
        "names": [[one.name for one in sets] for sets in segments],
    }


def make_row(rows: Sequence[str], index: int, split: str, with_steps: bool, style: StepStyle = StepStyle()) -> Row:
    """Build the row of a generated map.

    A map whose plan is too long for the sets of its latents is a prompt row: it has no steps.

    Args:
        rows: the map.
        index: number within the split, for the id and the look.
        split: name of the split.
        with_steps: add the latent steps and the answer as text.
        style: which latents.
    """
    plan = shortest_plan(rows)
    assert plan is not None, "generated maps have a solution"
    look, steps, helpers = index % LOOKS, list[Step](), dict[str, object]()
    if with_steps and (style.most_moves is None or len(plan) <= style.most_moves):
        steps, helpers = latent_steps(rows, plan, look, style)
        if style.words:
            steps.append(Step(type="text", text=plan_in_words(plan)))
        steps.append(Step(type="text", text=f"\\boxed{{{','.join(plan)}}}"))
    image = Image(bytes=draw_vsp(rows, walk_plan(rows, plan).cells[:1], [], look))
    return prompt_row(rows, f"vsp-{split}-{index:06d}", split, image, steps, style, **helpers)
