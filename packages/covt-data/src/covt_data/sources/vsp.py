"""Source `vsp`: generated FrozenLake maps, and the published VSP maps from a folder (`maps`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from covt_data.sources.source_types import Source, SourceOptions, SplitRows
from covt_data.tasks.vsp_maps import VspConditions, generate_test, generate_train
from covt_data.tasks.vsp_published import PublishedMaps
from covt_data.tasks.vsp_rows import Latents, StepStyle, make_row
from covt_data.tasks.vsp_sets import LARGEST

SIZES = range(3, 9)


class VspOptions(SourceOptions):
    """Generated maps are of one of `sizes`, each equally often; a size named twice is twice as frequent.

    `test_sizes` are those of the generated test maps; empty means `sizes`. The split `validation` is for choosing
    settings. With `maps`, the folder of the published maps, these become the split `test` (those of `levels`; empty
    means `sizes`), resized to 28 pixels per cell unless `keep_size`; the generated test maps are then called
    `generated`. `latents` chooses the helper images and `latent_size` their number per segment; training maps are those
    whose plan fits. `words` puts the plan into words before the answer.
    """

    n_train: int = Field(20_000, ge=1)
    n_prompts: int = Field(4000, ge=0)
    n_test: int = Field(200, ge=0)
    n_validation: int = Field(200, ge=0)
    sizes: tuple[int, ...] = (3, 4, 4)
    test_sizes: tuple[int, ...] = ()
    hole_density: float = Field(0.2, ge=0, le=0.9)
    min_path: int = Field(1, ge=1)
    detour_share: float | None = Field(0.5, ge=0, le=1)
    seed: int = Field(0, ge=0)
    latents: Latents = "wavefront"
    latent_size: int = Field(8, ge=2, le=64)
    maps: Path | None = None
    levels: tuple[int, ...] = ()
    keep_size: bool = False
    words: bool = False

    @field_validator("sizes")
    @classmethod
    def _some_size(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("give at least one size")
        return value

    @field_validator("sizes", "test_sizes", "levels")
    @classmethod
    def _known_sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not set(value) <= set(SIZES):
            raise ValueError(f"sizes are {SIZES.start} to {SIZES.stop - 1}")
        return value

    @model_validator(mode="after")
    def _sets_hold_the_maps(self) -> Self:
        largest = max((*self.sizes, *self.test_sizes))
        if self.latents != "trail" and largest > LARGEST:
            raise ValueError(
                f"latents={self.latents} holds maps up to {LARGEST}×{LARGEST}, not {largest}×{largest}: "
                "leave that size out, or set latents=trail"
            )
        return self

    @property
    def conditions(self) -> VspConditions:
        return VspConditions(self.sizes, self.hole_density, self.min_path, self.detour_share)

    @property
    def style(self) -> StepStyle:
        return StepStyle(self.latents, self.latent_size, self.words)


def _published(options: VspOptions) -> PublishedMaps | None:
    return PublishedMaps.open(options.maps, options.levels or options.sizes) if options.maps else None


def inputs(options: VspOptions) -> dict[str, str]:
    published = _published(options)
    return published.hashes() if published else {}


def splits(options: VspOptions) -> Iterator[SplitRows]:
    """The held-out maps come first; no map of their classes, and no published one, is in `train` or `prompts`."""
    published, style = _published(options), options.style
    if published:
        yield SplitRows("test", len(published.maps), published.rows("test", options.keep_size, style))
    taken: set[str] = set()
    every = options.conditions
    test = replace(every, sizes=options.test_sizes or options.sizes)
    train = replace(every, max_path=style.most_moves)
    plan = [
        ("generated" if published else "test", options.n_test, generate_test, test, True),
        ("validation", options.n_validation, generate_test, every, True),
        ("train", options.n_train, generate_train, train, True),
        ("prompts", options.n_prompts, generate_train, every, False),
    ]
    for name, count, generate, conditions, with_steps in plan:
        if count:
            maps = generate(f"{options.seed}/{name}", count, conditions, taken)
            rows = (make_row(rows, index, name, with_steps, style) for index, rows in enumerate(maps))
            yield SplitRows(name, count, rows)


SOURCE = Source(name="vsp", version="2", options=VspOptions, splits=splits, inputs=inputs, folder_option="maps")
