"""The numbers that are shown: norms and cosines of latents, the places they resemble most, agreement of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Span = tuple[int, int]


def norms(latents: Matrix) -> list[float]:
    """The Euclidean norm of each latent [P, H]."""
    return [float(value) for value in np.linalg.norm(latents.astype(np.float64), axis=1)]


def neighbor_cosines(latents: Matrix, sizes: Sequence[int]) -> tuple[list[float | None], list[float | None]]:
    """Cosines of each latent [P, H] with the one before and the one behind it in the same span.

    Args:
        latents: of all spans in order.
        sizes: latents of each span; those beyond P are not among the latents.

    Returns:
        Cosines with the previous and with the next latent; None at the ends of a span, and where a latent is zero.
    """
    rows = latents.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    previous: list[float | None] = [None] * len(rows)
    following: list[float | None] = [None] * len(rows)
    start = 0
    for size in sizes:
        for at in range(start + 1, min(start + size, len(rows))):
            if lengths[at - 1] > 0 and lengths[at] > 0:
                value = float(rows[at - 1] @ rows[at] / (lengths[at - 1] * lengths[at]))
                previous[at] = following[at - 1] = value
        start += size
    return previous, following


def patch_boxes(size: tuple[int, int], rows: int, columns: int) -> list[list[float]]:
    """The box [x0, y0, x1, y1] in pixels of each visual token of a picture, row by row.

    Args:
        size: (width, height) of the picture as it was sent.
        rows: visual tokens in a column of the picture.
        columns: visual tokens in a row of it.
    """
    width, height = size[0] / columns, size[1] / rows
    return [
        [round(x * width, 2), round(y * height, 2), round((x + 1) * width, 2), round((y + 1) * height, 2)]
        for y in range(rows)
        for x in range(columns)
    ]


def nearest_places(
    cosines: Sequence[Matrix], places: Sequence[Sequence[dict[str, Any]]], count: int
) -> list[list[dict[str, Any]]]:
    """For each latent the places with the highest cosines, the highest first; of equal ones the first.

    Args:
        cosines: for each picture [P, n].
        places: for each picture its n places.
        count: places to name.

    Returns:
        For each latent copies of the places, with `cosine`.
    """
    if not cosines:
        return []
    joined = np.concatenate(cosines, axis=1)
    flat = [place for picture in places for place in picture]
    order = np.argsort(-joined, axis=1, kind="stable")[:, :count]
    return [
        [flat[index] | {"cosine": round(float(joined[latent, index]), 4)} for index in row.tolist()]
        for latent, row in enumerate(order)
    ]


def same_answer(answers: Sequence[str]) -> tuple[str, float]:
    """The most common answer, the earliest of several, and the share of answers that equal it but for case and spaces.

    Args:
        answers: final answers, at least one; an empty text means that there was none.
    """
    keys = ["".join(answer.split()).casefold() for answer in answers]
    best = max(keys, key=keys.count)
    return answers[keys.index(best)], keys.count(best) / len(keys)
