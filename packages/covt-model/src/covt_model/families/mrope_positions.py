"""M-RoPE positions of a token sequence with pictures, equal to Transformers' `get_rope_index`.

Transformers derives them only when `mm_token_type_ids` is passed, and falls back to one-dimensional positions
without a word otherwise; here they are computed once when a row is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from covt_model.families.image_settings import Grid


def mrope_positions(ids: np.ndarray, image_pad_id: int, grids: Sequence[Grid], merge: int) -> np.ndarray:
    """Positions (time, height, width) of each token.

    ids: int [T] with each picture's `<|image_pad|>` already expanded; grids: patch grid of each picture, in order;
    merge: patches a visual token spans in each direction. Returns int64 [3, T]. A text token takes one position in
    all three; a picture takes max(rows, columns) positions, and its tokens share one time.
    """
    positions = np.empty((3, len(ids)), dtype=np.int64)
    image = np.flatnonzero(ids == image_pad_id)
    expected = sum(t * h * w // merge**2 for t, h, w in grids)
    if len(image) != expected:
        raise ValueError(f"{len(image)} image pads but the pictures have {expected} visual tokens")
    done, now = 0, 0
    for t, h, w in grids:
        rows, columns = h // merge, w // merge
        count = t * rows * columns
        start = int(image[0])
        image = image[count:]
        text = start - done
        positions[:, done:start] = np.arange(now, now + text)
        now += text
        index = np.arange(count)
        positions[0, start : start + count] = now + index // (rows * columns)
        positions[1, start : start + count] = now + index // columns % rows
        positions[2, start : start + count] = now + index % columns
        now += max(rows, columns)
        done = start + count
    positions[:, done:] = np.arange(now, now + len(ids) - done)
    return positions
