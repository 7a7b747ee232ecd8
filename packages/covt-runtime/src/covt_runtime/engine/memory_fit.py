"""Recipe settings under which a training fits where it does not fit as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from covt_runtime.recipe_schema import Section

C = TypeVar("C", bound=Section)
Change = Mapping[str, Any]
"""Values by recipe key (`zero.gather`), set together."""
COMMON_CHANGES: Sequence[Change] = (
    {"model.gradient_checkpointing": True},
    {"zero.gather": "module"},
    {"zero.gather": "module", "zero.max_live_parameters": 100_000_000, "zero.max_reuse_distance": 100_000_000},
    {"data.micro_batch": 1},
    {"zero.offload_optimizer": "cpu"},
    {"zero.offload_optimizer": "cpu", "zero.offload_parameters": "cpu"},
    {"lora.rank": 16},
)
"""What an error proposes for any training, the least costly first."""


def with_change(config: C, change: Change) -> C | None:
    """The recipe with other values; None where they exclude each other, or the recipe has them already."""
    values = config.model_dump()
    for key, value in change.items():
        section, _, name = key.partition(".")
        if name not in values.get(section, {}):
            return None
        values[section] = values[section] | {name: value}
    try:
        changed = type(config).model_validate(values)
    except ValidationError:
        return None
    return None if changed == config else changed


def settings_that_fit(config: C, changes: Sequence[Change], fits: Callable[[C], bool]) -> str:
    """The first of these changes after which the training fits, or those of the first few that it takes.

    Args:
        config: the recipe.
        changes: in the order in which they should be tried, the least costly first.
        fits: whether a recipe fits.

    Returns:
        Assignments as the command line takes them, `zero.gather=module lora.rank=16`; empty where nothing helps.
    """
    for change in changes:
        changed = with_change(config, change)
        if changed is not None and fits(changed):
            return _text(change)
    taken: dict[str, Any] = {}
    for change in changes:
        changed = with_change(config, taken | dict(change))
        if changed is None:
            continue
        taken |= change
        if fits(changed):
            return _text(_needed(config, taken, fits))
    return ""


def _needed(config: C, taken: Mapping[str, Any], fits: Callable[[C], bool]) -> Change:
    """The changes without those that make no difference, tried from the most to the least costly."""
    left = dict(taken)
    for key in reversed(list(taken)):
        fewer = with_change(config, {name: value for name, value in left.items() if name != key})
        if fewer is not None and fits(fewer):
            del left[key]
    return left


def _text(change: Change) -> str:
    values = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in change.items()}
    return " ".join(f"{key}={value}" for key, value in values.items())
