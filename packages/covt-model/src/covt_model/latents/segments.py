"""The order in which a batch with latent segments is computed: chunks of text and single latent steps.

A row `text S p1 … pK E text` is cut so that a segment's last pad opens the next chunk: the input of p1 is known after
the chunk that ends in S, the input of pK after the step of p(K−1), and the hidden state at pK is wanted only as part
of the following text. One segment so takes a chunk and K − 1 single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from covt_model.encoding.encode import Span

# Share of a chunk's slots that must be unused for leaving them out to be worth the copies it takes.
WORTH_PACKING = 0.1


@dataclass(frozen=True)
class Plan:
    """Slots are the columns of the computation, S in all; rows leave slots unused where they have less to compute.

    Rows with more segments come first: the rows that still have something to compute are the first `active` ones.

    token_of_slot: [B, S], which token of its row a slot computes (0 where unused); used: bool [B, S].
    chunks: column ranges of the text chunks, one more than segments; between two chunks lie `steps` single columns.
    active: per chunk, how many rows are computed in it, and in the steps before it; at least 1.
    packed: per chunk, whether only its used slots are computed.
    fed: bool [segments, B], whether the row has that segment.
    last: [segments, B], each row's `<|latent_start|>` among the slots computed in the segment's chunk, 0 for idle rows.
    output_of_token: per row [length], each token's place among all slots computed, stretch by stretch.
    """

    token_of_slot: np.ndarray
    used: np.ndarray
    chunks: tuple[tuple[int, int], ...]
    steps: int
    active: tuple[int, ...]
    packed: tuple[bool, ...]
    fed: np.ndarray
    last: np.ndarray
    output_of_token: list[np.ndarray]


def plan(
    lengths: Sequence[int], spans: Sequence[Sequence[Span]], size: int, segments: int, *, always_pack: bool = False
) -> Plan:
    """Lay out rows of `lengths` tokens with their pads' spans for `segments` segments of `size`.

    Rows are sorted by their number of segments, most first. Spans may be shorter than `size` (a completion cut off
    inside a segment). Raises ValueError for spans that are longer, empty, start the row, or are more than `segments`.
    always_pack: leave out unused slots in every chunk.
    """
    assert all(len(row) >= len(after) for row, after in pairwise(spans)), "rows with more segments must come first"
    for row in spans:
        if len(row) > segments or any(not (0 < start < end <= start + size) for start, end in row):
            raise ValueError(f"spans {list(row)} do not fit {segments} segments of {size} pads")
    # Chunk s of a row: from the last pad of segment s − 1 to the start marker of segment s, or to the row's end.
    starts = [[0, *(end - 1 for _, end in row)] for row in spans]
    stops = [[*(start for start, _ in row), length] for row, length in zip(spans, lengths, strict=True)]
    chunks = _columns(starts, stops, size - 1, segments)
    token_of_slot = np.zeros((len(spans), chunks[-1][1]), dtype=np.int64)
    used = np.zeros(token_of_slot.shape, dtype=bool)
    for row, ranges in enumerate(spans):
        for number, (start, stop) in enumerate(zip(starts[row], stops[row], strict=True)):
            first, after = chunks[number]
            token_of_slot[row, first : first + stop - start] = np.arange(start, stop)
            used[row, first : first + stop - start] = True
            if number < len(ranges):
                begin, end = ranges[number]
                token_of_slot[row, after : after + end - begin - 1] = np.arange(begin, end - 1)
                used[row, after : after + end - begin - 1] = True
    active = tuple(max(1, sum(len(row) >= number for row in spans)) for number in range(segments + 1))
    packed = tuple(
        _leaves_out(used[:rows, start:stop], always_pack) for rows, (start, stop) in zip(active, chunks, strict=True)
    )
    output, bases = _outputs(used, chunks, active, packed)
    fed = np.array([[number < len(row) for row in spans] for number in range(segments)], dtype=bool)
    last = np.zeros((segments, len(spans)), dtype=np.int64)
    for number, row in zip(*np.nonzero(fed), strict=True):
        marker = chunks[number][0] + stops[row][number] - starts[row][number] - 1
        last[number, row] = output[row, marker] - bases[number]
    places = [output[row, used[row]] for row in range(len(spans))]
    return Plan(token_of_slot, used, chunks, size - 1, active, packed, fed, last, places)


def _columns(
    starts: Sequence[Sequence[int]], stops: Sequence[Sequence[int]], steps: int, segments: int
) -> tuple[tuple[int, int], ...]:
    """Column ranges of the chunks: as wide as the longest row's part, `steps` columns apart."""
    chunks, column = [], 0
    for number in range(segments + 1):
        widths = [b[number] - a[number] for a, b in zip(starts, stops, strict=True) if number < len(a)]
        chunks.append((column, column + max(widths, default=1)))
        column = chunks[-1][1] + steps
    return tuple(chunks)


def _leaves_out(used: np.ndarray, always: bool) -> bool:
    share = used.mean()
    return bool(share > 0 and (always or share < 1 - WORTH_PACKING))


def _outputs(
    used: np.ndarray, chunks: Sequence[tuple[int, int]], active: Sequence[int], packed: Sequence[bool]
) -> tuple[np.ndarray, list[int]]:
    """Each slot's place among all slots computed, [B, S], and the place at which each chunk begins."""
    output, bases, base = np.zeros(used.shape, dtype=np.int64), [], 0
    following = [start for start, _ in chunks[1:]] + [used.shape[1]]
    next_active = [*active[1:], 0]
    for number, ((start, stop), leaves_out, after) in enumerate(zip(chunks, packed, following, strict=True)):
        rows = active[number]
        computed = used[:rows, start:stop] if leaves_out else np.ones((rows, stop - start), dtype=bool)
        bases.append(base)
        output[:rows, start:stop][computed] = base + np.arange(computed.sum())
        base += int(computed.sum())
        for column in range(stop, after):
            output[: next_active[number], column] = base + np.arange(next_active[number])
            base += next_active[number]
    return output, bases
