"""Source `trace`: generated arrow maps (`covt_data.tasks.trace_maps`)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field, model_validator

from covt_data.schema import Row
from covt_data.sources.source_types import Source, SourceOptions, SplitRows
from covt_data.tasks.grid import CELL_PIXELS
from covt_data.tasks.trace_maps import HELPER_IMAGES, TraceMap, generate, make_row


class TraceOptions(SourceOptions):
    """`demo_hops` and `hops` are relative frequencies of 1, 2, ... hops; empty means all equally often.

    `demo_hops` is for `train` (the demonstrations), `hops` for `prompts` and `test`. Of the demonstrations of at most
    `direct_hops` hops, `direct_share` answer directly, without a latent step, as people draw only what is hard.
    `words` names the cells on the path before the answer of a demonstration with a latent step. `cell_pixels` is the
    side of a cell, which must be that of the model's visual tokens.
    """

    n_train: int = Field(4000, ge=1)
    n_prompts: int = Field(12000, ge=0)
    n_test: int = Field(1000, ge=1)
    size: int = Field(4, ge=3, le=8)
    max_hops: int = Field(8, ge=1, le=HELPER_IMAGES)
    seed: int = Field(0, ge=0)
    demo_hops: tuple[float, ...] = ()
    hops: tuple[float, ...] = ()
    direct_hops: int = Field(0, ge=0, le=HELPER_IMAGES)
    direct_share: float = Field(0.75, ge=0, le=1)
    words: bool = False
    cell_pixels: int = Field(CELL_PIXELS, ge=CELL_PIXELS, le=112)

    @model_validator(mode="after")
    def _weights_fit(self) -> TraceOptions:
        for name in ("demo_hops", "hops"):
            weights: tuple[float, ...] = getattr(self, name)
            if weights and (len(weights) != self.max_hops or min(weights) < 0 or sum(weights) <= 0):
                raise ValueError(f"{name} needs max_hops = {self.max_hops} weights, none negative, not all zero")
        return self

    def weights(self, chosen: Sequence[float]) -> Sequence[float]:
        return chosen or [1.0] * self.max_hops


def splits(options: TraceOptions) -> Iterator[SplitRows]:
    """`test` is drawn first, so it stays the same whatever the other counts are; no map is in two splits."""
    seen: set[str] = set()
    plan = [
        ("test", options.n_test, options.hops, True),
        ("train", options.n_train, options.demo_hops, True),
        ("prompts", options.n_prompts, options.hops, False),
    ]
    for name, count, chosen, with_steps in plan:
        if count == 0:
            continue
        maps = generate(f"{options.seed}/{name}", count, options.size, options.weights(chosen), seen)
        direct_hops = options.direct_hops if name == "train" else 0
        yield SplitRows(name, count, _rows(maps, name, with_steps, direct_hops, options))


def _rows(
    maps: Iterable[TraceMap], split: str, with_steps: bool, direct_hops: int, options: TraceOptions
) -> Iterator[Row]:
    chance = random.Random(f"{options.seed}/{split}/direct")
    for index, trace in enumerate(maps):
        direct = trace.hops <= direct_hops and chance.random() < options.direct_share
        yield make_row(trace, index, split, with_steps, direct, options.words, options.cell_pixels)


SOURCE = Source(name="trace", version="1", options=TraceOptions, splits=splits)
