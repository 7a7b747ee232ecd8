"""Filters by category, origin, pass rate, tokens and images. Dropped records are counted per filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from covt_data.records.parsed_record import ParsedRecord
from covt_data.sources.source_types import FileOptions

CountTokens = Callable[[str], int]


def filtered_by_text(draft: ParsedRecord, options: FileOptions, count_tokens: CountTokens | None) -> str | None:
    """Return the name of the first filter that a record fails, or None. No image is read for this."""
    if options.categories and draft.category not in options.categories:
        return "categories"
    if options.origins and draft.metadata.get("origin") not in options.origins:
        return "origins"
    if options.text_only == "drop" and not draft.images:
        return "text_only"
    if options.text_only == "only" and draft.images:
        return "text_only"
    left_out = _filtered_by_rate(draft.metadata.get("pass_rate"), options)
    if left_out:
        return left_out
    if count_tokens is not None and not _between(count_tokens(draft.text), options.min_tokens, options.max_tokens):
        return "tokens"
    return None


def filtered_by_size(sizes: Sequence[tuple[int, int]], options: FileOptions) -> str | None:
    """`pixels` when an image (width, height) has too few or too many."""
    fits = all(_between(width * height, options.min_pixels, options.max_pixels) for width, height in sizes)
    return None if fits else "pixels"


def _filtered_by_rate(rate: Any, options: FileOptions) -> str | None:
    if options.min_pass_rate is None and options.max_pass_rate is None:
        return None
    if not isinstance(rate, int | float):
        return None if options.unrated == "keep" else "unrated"
    return None if _between(rate, options.min_pass_rate, options.max_pass_rate) else "pass_rate"


def _between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
