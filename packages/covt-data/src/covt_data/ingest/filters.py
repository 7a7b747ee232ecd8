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
    if not _rate_fits(draft.metadata.get("pass_rate"), options):
        return "pass_rate"
    if count_tokens is not None and not _between(count_tokens(draft.text), options.min_tokens, options.max_tokens):
        return "tokens"
    return None


def filtered_by_size(sizes: Sequence[tuple[int, int]], options: FileOptions) -> str | None:
    """`pixels` when an image (width, height) has too few or too many."""
    fits = all(_between(width * height, options.min_pixels, options.max_pixels) for width, height in sizes)
    return None if fits else "pixels"


def _rate_fits(rate: Any, options: FileOptions) -> bool:
    if options.min_pass_rate is None and options.max_pass_rate is None:
        return True
    if not isinstance(rate, int | float):
        return options.unrated == "keep"
    return _between(rate, options.min_pass_rate, options.max_pass_rate)


def _between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
