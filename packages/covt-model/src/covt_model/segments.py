"""The order in which a batch with latent segments is computed: chunks of text and single latent steps.

A row `text S p1 … pK E text` is cut so that a segment's last pad opens the next chunk: the input of p1 is known after
the chunk that ends in S, the input of pK after the step of p(K−1), and the hidden state at pK is wanted only as part
of the following text. One segment so takes a chunk and K − 1 single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from covt_model.encode import Span


@dataclass(frozen=True)
class Plan:
    """Slots are the columns of the computation, S in all; rows leave slots unused where they have less to compute.

    token_of_slot: [B, S], which token a slot computes (0 where unused); used: bool [B, S]; slot_of_token: [B, T].
    chunks: column ranges of the text chunks, one more than segments; between two chunks lie `steps` single columns.
    last: [segments, B] column of each row's `<|latent_start|>` within its chunk, 0 for idle rows.
    fed: bool [segments, B], whether the row has that segment.
    """

    token_of_slot: np.ndarray
    used: np.ndarray
    slot_of_token: np.ndarray
    chunks: tuple[tuple[int, int], ...]
    steps: int
    last: np.ndarray
    fed: np.ndarray


def plan(lengths: Sequence[int], spans: Sequence[Sequence[Span]], total: int, size: int, segments: int) -> Plan:
    """Lay out rows of `lengths` tokens (padded to `total`) with their pads' spans for `segments` segments of `size`.

    Spans may be shorter than `size` (a completion cut off inside a segment). Raises ValueError for spans that are
    longer, empty, start the row, or are more than `segments`.
    """
    for row in spans:
        if len(row) > segments or any(not (0 < start < end <= start + size) for start, end in row):
            raise ValueError(f"spans {list(row)} do not fit {segments} segments of {size} pads")
    rows = len(lengths)
    # Chunk s of a row: from the last pad of segment s − 1 to the start marker of segment s, or to the row's end.
    starts = [[0, *(end - 1 for _, end in row)] for row in spans]
    stops = [[*(start for start, _ in row), length] for row, length in zip(spans, lengths, strict=True)]
    widths = [
        max((stops[row][number] - starts[row][number] for row in range(rows) if number < len(starts[row])), default=1)
        for number in range(segments + 1)
    ]
    steps = size - 1
    columns = sum(widths) + segments * steps
    token_of_slot = np.zeros((rows, columns), dtype=np.int64)
    used = np.zeros((rows, columns), dtype=bool)
    slot_of_token = np.zeros((rows, total), dtype=np.int64)
    last = np.zeros((segments, rows), dtype=np.int64)
    fed = np.zeros((segments, rows), dtype=bool)

    def place(row: int, token: int, slot: int, count: int) -> None:
        token_of_slot[row, slot : slot + count] = np.arange(token, token + count)
        used[row, slot : slot + count] = True
        slot_of_token[row, token : token + count] = np.arange(slot, slot + count)

    chunks: list[tuple[int, int]] = []
    column = 0
    for number, width in enumerate(widths):
        chunks.append((column, column + width))
        for row in range(rows):
            if number < len(starts[row]):
                place(row, starts[row][number], column, stops[row][number] - starts[row][number])
        column += width
        if number == segments:
            break
        for row in range(rows):
            if number < len(spans[row]):
                start, end = spans[row][number]
                fed[number, row] = True
                last[number, row] = stops[row][number] - starts[row][number] - 1
                place(row, start, column, end - start - 1)
        column += steps
    return Plan(token_of_slot, used, slot_of_token, tuple(chunks), steps, last, fed)
