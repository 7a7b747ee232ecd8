"""Source `vsp`: generated FrozenLake maps, and the published VSP maps from a folder (`maps`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, field_validator

from covt_data.sources.source_types import Source, SourceOptions, SplitRows
from covt_data.tasks.vsp_maps import VspConditions, generate_test, generate_train
from covt_data.tasks.vsp_published import PublishedMaps
from covt_data.tasks.vsp_rows import make_row

SIZES = range(3, 9)


class VspOptions(SourceOptions):
    """Generated maps are of one of `sizes`, each equally often.

    With `maps`, the folder of the published maps, these become the split `test` (those of `levels`; empty means
    `sizes`), resized to 28 pixels per cell unless `keep_size`; the generated test maps are then called `validation`.
    `words` puts the plan into words before the answer.
    """

    n_train: int = Field(4000, ge=1)
    n_prompts: int = Field(4000, ge=0)
    n_test: int = Field(200, ge=0)
    sizes: tuple[int, ...] = (3,)
    hole_density: float = Field(0.2, ge=0, le=0.9)
    min_path: int = Field(1, ge=1)
    detour_share: float | None = Field(0.5, ge=0, le=1)
    seed: int = Field(0, ge=0)
    maps: Path | None = None
    levels: tuple[int, ...] = ()
    keep_size: bool = False
    words: bool = False

    @field_validator("sizes")
    @classmethod
    def _known_sizes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or not set(value) <= set(SIZES):
            raise ValueError(f"sizes are {SIZES.start} to {SIZES.stop - 1}")
        return value

    @property
    def conditions(self) -> VspConditions:
        return VspConditions(self.sizes, self.hole_density, self.min_path, self.detour_share)


def _published(options: VspOptions) -> PublishedMaps | None:
    return PublishedMaps.open(options.maps, options.levels or options.sizes) if options.maps else None


def inputs(options: VspOptions) -> dict[str, str]:
    published = _published(options)
    return published.hashes() if published else {}


def splits(options: VspOptions) -> Iterator[SplitRows]:
    """The generated test maps come first; no map of their classes, and no published one, is in `train` or `prompts`."""
    published = _published(options)
    if published:
        yield SplitRows("test", len(published.maps), published.rows("test", options.keep_size))
    taken: set[str] = set()
    held_out = "validation" if published else "test"
    plan = [
        (held_out, options.n_test, generate_test, True),
        ("train", options.n_train, generate_train, True),
        ("prompts", options.n_prompts, generate_train, False),
    ]
    for name, count, generate, with_steps in plan:
        if count:
            maps = generate(f"{options.seed}/{name}", count, options.conditions, taken)
            rows = (make_row(rows, index, name, with_steps, options.words) for index, rows in enumerate(maps))
            yield SplitRows(name, count, rows)


SOURCE = Source(name="vsp", version="1", options=VspOptions, splits=splits, inputs=inputs, folder_option="maps")
