"""How the completions of a step are cut into optimizer steps and micro-batches, the same on every rank."""

from collections.abc import Sequence
from itertools import pairwise


def chunks(count: int, parts: int) -> list[range]:
    """Divide `count` items, in order, into at most `parts` nearly equal ranges, none of them empty."""
    parts = min(parts, count)
    edges = [count * part // parts for part in range(parts + 1)] if parts else [0]
    return [range(start, end) for start, end in pairwise(edges)]


def pack(lengths: Sequence[int], *, rows: int, tokens: int | None) -> list[range]:
    """Divide rows into micro-batches.

    Args:
        lengths: of the rows in tokens, ascending.
        rows: most rows per micro-batch.
        tokens: most tokens per micro-batch, padding included; a longer row is a micro-batch of its own.
    """
    batches: list[range] = []
    start = 0
    for end in range(1, len(lengths) + 1):
        # `end` is the first row that might not fit any more.
        full = end == len(lengths) or end - start == rows
        if tokens is not None and not full:
            full = (end + 1 - start) * lengths[end] > tokens
        if full:
            batches.append(range(start, end))
            start = end
    return batches
