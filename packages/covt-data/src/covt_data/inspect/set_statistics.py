"""Statistics of a prepared set: lengths, visual tokens, images, categories, graders, pass rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from covt_data.images.pixel_limits import PixelLimits, image_size, visual_tokens
from covt_data.ingest.filters import CountTokens
from covt_data.schema import Image, Row
from covt_data.store.prepared_set import PreparedSet

RATE_BINS = 10


def split_stats(
    prepared: PreparedSet, split: str, *, count_tokens: CountTokens | None = None, limits: PixelLimits | None = None
) -> dict[str, Any]:
    """Statistics of a split, JSON-serializable. Lengths are in characters, and in tokens when `count_tokens` is given.

    Distributions are `{"n", "mean", "min", "p50", "p95", "max"}`; `pass_rates` is a histogram of ten bins of 0.1
    (the last includes 1) with the number of rows that have none.
    """
    limits = limits or PixelLimits()
    numbers: dict[str, list[float]] = {}
    counts = {"category": Counter[str](), "grader": Counter[str](), "origin": Counter[str]()}
    rates: list[float] = []
    rows = 0
    for row in prepared.rows(split):
        rows += 1
        for name, value in _numbers(row, count_tokens, limits).items():
            numbers.setdefault(name, []).append(value)
        counts["category"][row.category or ""] += 1
        counts["grader"][row.grader] += 1
        meta = row.meta
        counts["origin"][str(meta.get("origin", ""))] += 1
        if isinstance(meta.get("pass_rate"), int | float):
            rates.append(float(meta["pass_rate"]))
    histogram = np.histogram(rates, RATE_BINS, (0, 1))[0].tolist()
    return {
        "rows": rows,
        **{name: _distribution(values) for name, values in numbers.items()},
        "text_only": numbers.get("images", []).count(0),
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        "pass_rates": {"bins": histogram, "missing": rows - len(rates)},
    }


def _numbers(row: Row, count_tokens: CountTokens | None, limits: PixelLimits) -> dict[str, float]:
    helpers = [image for step in row.steps for image in step.images or []]
    reasoning = "\n".join(step.text for step in row.steps if step.text)
    found: dict[str, float] = {
        "question_characters": len(row.question),
        "reasoning_characters": len(reasoning),
        "images": len(row.images),
        "helper_images": len(helpers),
        "latent_steps": sum(step.type == "latent" for step in row.steps),
        "visual_tokens": _visual(row.images, limits),
        "helper_visual_tokens": _visual(helpers, limits),
    }
    if count_tokens:
        found["question_tokens"] = count_tokens(row.question)
        found["reasoning_tokens"] = count_tokens(reasoning) if reasoning else 0
    return found


def _visual(images: Sequence[Image], limits: PixelLimits) -> int:
    return sum(visual_tokens(*image_size(image), limits) for image in images)


def _distribution(values: list[float]) -> dict[str, float]:
    low, middle, high, top = np.percentile(values, (0, 50, 95, 100)).tolist()
    return {"n": len(values), "mean": float(np.mean(values)), "min": low, "p50": middle, "p95": high, "max": top}


def stats_table(stats: dict[str, Any]) -> str:
    """Format the statistics of a split as text."""
    lines = [f"{'':<24}{'mean':>9}{'min':>8}{'p50':>8}{'p95':>8}{'max':>8}"]
    for name, value in stats.items():
        if isinstance(value, dict) and "p95" in value:
            cells = "".join(f"{value[key]:>8.0f}" for key in ("min", "p50", "p95", "max"))
            lines.append(f"{name.replace('_', ' '):<24}{value['mean']:>9.1f}{cells}")
    for name in ("category", "grader", "origin"):
        shown = ", ".join(f"{key or 'none'} {count}" for key, count in list(stats[name].items())[:12])
        lines.append(f"{name:<24}{shown}")
    lines.append(f"{'rows without images':<24}{stats['text_only']}")
    if sum(stats["pass_rates"]["bins"]):
        bins = "  ".join(f"{n / RATE_BINS:.1f}: {count}" for n, count in enumerate(stats["pass_rates"]["bins"]))
        lines.append(f"{'pass rates from':<24}{bins}  none: {stats['pass_rates']['missing']}")
    return "\n".join(lines)
