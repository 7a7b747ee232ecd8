"""The `trace` task: follow D arrows from a marked cell and name the final cell.

Every cell has an arrow, including the final one, so the number of hops must be read from the question. The cells on
the path are all different, the arrows elsewhere are random, and no arrow points off the grid. Helper image h of the
single latent step is the map with the marker moved min(h, D) hops, h = 1..8.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from covt_data.data_errors import DataError
from covt_data.schema import Image, Row, Step
from covt_data.tasks.grid import CELL_PIXELS, Cell, cell_box, moves_on_grid, step, symmetries
from covt_data.tasks.trace_render import draw_map, draw_marked

HELPER_IMAGES = 8
MAX_REPEATS = 2000  # consecutive draws of known maps; then the space counts as exhausted


@dataclass(frozen=True)
class TraceMap:
    """A grid of arrows (`arrows[row][column]`, letters of `U D L R`), a start cell, and the number of hops."""

    arrows: tuple[str, ...]
    start: Cell
    hops: int

    @property
    def size(self) -> int:
        return len(self.arrows)

    @property
    def path(self) -> list[Cell]:
        """The hops + 1 cells from the start to the end."""
        cells = [self.start]
        for _ in range(self.hops):
            row, column = cells[-1]
            cells.append(step((row, column), self.arrows[row][column]))
        return cells

    @property
    def answer(self) -> str:
        return cell_name(self.path[-1])


def cell_name(cell: Cell) -> str:
    """Column letter and row number, as on a chessboard seen from above with row 1 on top: (2, 1) is `B3`."""
    return f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[cell[1]]}{cell[0] + 1}"


def canonical(trace: TraceMap) -> str:
    """Return a text that is equal for all eight rotations and reflections of a map, and for no other map."""
    cells = "".join(trace.arrows)
    start = trace.start[0] * trace.size + trace.start[1]
    least = min(
        ("".join(gather(cells)).translate(turn), new_index[start]) for gather, turn, new_index in symmetries(trace.size)
    )
    return f"{least[0]} {least[1]} {trace.hops}"


def _draw_path(random_: random.Random, size: int, hops: int) -> tuple[list[Cell], list[str]]:
    """A self-avoiding walk of `hops` moves from a random cell; a walk that runs into a dead end starts over."""
    while True:
        cell = (random_.randrange(size), random_.randrange(size))
        cells = [cell]
        moves: list[str] = []
        while len(moves) < hops:
            choices = [move for move in moves_on_grid(cell, size) if step(cell, move) not in cells]
            if not choices:
                break
            moves.append(random_.choice(choices))
            cell = step(cell, moves[-1])
            cells.append(cell)
        if len(moves) == hops:
            return cells, moves


def draw_trace(random_: random.Random, size: int, hops: int) -> TraceMap:
    """A random map with a self-avoiding path of `hops` moves; cells off the path point anywhere on the grid."""
    cells, moves = _draw_path(random_, size, hops)
    on_path = dict(zip(cells, moves, strict=False))
    arrows = tuple(
        "".join(on_path.get((r, c)) or random_.choice(moves_on_grid((r, c), size)) for c in range(size))
        for r in range(size)
    )
    return TraceMap(arrows, cells[0], hops)


def generate(seed: str, count: int, size: int, hop_weights: Sequence[float], seen: set[str]) -> Iterator[TraceMap]:
    """Yield `count` maps whose canonical forms are not in `seen`, and add their forms to it.

    Args:
        seed: text that determines all draws.
        count: number of maps.
        size: cells per side.
        hop_weights: `hop_weights[i]` is the relative frequency of i + 1 hops.
        seen: canonical forms to avoid; extended in place.

    Raises:
        DataError: when no new maps are left.
    """
    random_ = random.Random(seed)  # a text seed is hashed by SHA-512: the same on every platform
    hops_choices = list(range(1, len(hop_weights) + 1))
    for made in range(count):
        for _ in range(MAX_REPEATS):
            trace = draw_trace(random_, size, random_.choices(hops_choices, hop_weights)[0])
            form = canonical(trace)
            if form not in seen:
                break
        else:
            raise DataError(
                f"only {made} of {count} different {size}×{size} maps were found",
                "ask for fewer rows, or for a larger size or more hops",
            )
        seen.add(form)
        yield trace


def question(hops: int) -> str:
    return f"<image>Follow {hops} arrow{'s' if hops > 1 else ''} from the marker."


def path_in_words(path: Sequence[Cell]) -> str:
    """`From A1 to B1, B2.`"""
    return f"From {cell_name(path[0])} to {', '.join(map(cell_name, path[1:]))}."


def make_row(
    trace: TraceMap,
    index: int,
    split: str,
    with_steps: bool,
    direct: bool = False,
    words: bool = False,
    side: int = CELL_PIXELS,
) -> Row:
    """Build the row of a map.

    Args:
        trace: the map.
        index: number within the split, for the id.
        split: name of the split.
        with_steps: add a latent step of 8 helper images and the answer as text.
        direct: add the answer alone, without a latent step.
        words: name the cells of the path between helper images and answer.
        side: pixels per side of a cell.
    """
    arrows, path = list(trace.arrows), trace.path
    base = draw_map(arrows, side)
    answer = cell_name(path[-1])
    meta: dict[str, object] = {
        "size": trace.size,
        "arrows": arrows,
        "start": trace.start,
        "hops": trace.hops,
        "path": path,
    }
    steps: list[Step] = []
    answer_step = Step(type="text", text=f"\\boxed{{{answer}}}")
    if direct:
        steps.append(answer_step)
    elif with_steps:
        places = [path[min(h, trace.hops)] for h in range(1, HELPER_IMAGES + 1)]
        drawn = {cell: Image(bytes=draw_marked(base, arrows, cell)) for cell in dict.fromkeys(places)}
        steps.append(Step(type="latent", images=[drawn[cell] for cell in places]))
        if words:
            steps.append(Step(type="text", text=path_in_words(path)))
        steps.append(answer_step)
        meta["focus"] = [[cell_box(cell, side) for cell in places]]
    return Row(
        id=f"trace-{split}-{index:06d}",
        source="trace",
        split=split,
        category=f"{trace.hops} hop{'s' if trace.hops > 1 else ''}",
        question=question(trace.hops),
        images=[Image(bytes=draw_marked(base, arrows, trace.start))],
        answer=answer,
        grader="text",
        steps=steps,
        metadata=json.dumps(meta, separators=(",", ":")),
    )
