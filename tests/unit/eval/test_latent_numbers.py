"""The numbers of an inspection against formulas written out, and against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from covt_eval.inspection.latent_numbers import nearest_places, neighbor_cosines, norms, patch_boxes, same_answer


def random_latents(count: int, hidden: int = 16) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, hidden)).astype(np.float32)


def test_norms_and_neighbor_cosines_are_torchs_within_each_span() -> None:
    latents, sizes = random_latents(7), [4, 3]
    rows = torch.from_numpy(latents)
    assert norms(latents) == pytest.approx(rows.norm(dim=1).tolist(), abs=1e-5)
    previous, following = neighbor_cosines(latents, sizes)
    cosines = [float(cosine_similarity(rows[at], rows[at + 1], 0)) for at in range(6)]
    cosines[3] = float("nan")
    assert previous == [None, *(pytest.approx(one, abs=1e-5) if one == one else None for one in cosines)]
    assert following == [*previous[1:], None]


def test_a_span_that_was_cut_and_a_latent_of_zeros_have_no_cosine() -> None:
    latents = random_latents(3)
    latents[1] = 0
    assert neighbor_cosines(latents, [8]) == ([None] * 3, [None] * 3)
    assert neighbor_cosines(random_latents(2), [8, 8])[1][1] is None


def test_boxes_tile_the_picture_row_by_row() -> None:
    boxes = patch_boxes((90, 40), rows=2, columns=3)
    assert boxes[:2] == [[0, 0, 30, 20], [30, 0, 60, 20]]
    assert boxes[-1] == [60, 20, 90, 40]
    assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == 90 * 40


def test_nearest_places_are_those_of_a_plain_search() -> None:
    generator = np.random.default_rng(0)
    cosines = [generator.uniform(-1, 1, size=(5, n)).astype(np.float32) for n in (6, 4)]
    places = [[{"picture": p, "box": [n]} for n in range(c.shape[1])] for p, c in enumerate(cosines)]
    for latent, found in enumerate(nearest_places(cosines, places, 3)):
        pairs = [(float(c[latent, n]), places[p][n]) for p, c in enumerate(cosines) for n in range(c.shape[1])]
        expected = sorted(pairs, key=lambda pair: -pair[0])[:3]
        assert found == [place | {"cosine": round(cosine, 4)} for cosine, place in expected]
    assert nearest_places([], [], 3) == []
    assert [one["box"] for one in nearest_places([np.zeros((1, 2), np.float32)], [places[0][:2]], 9)[0]] == [[0], [1]]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["C4", "c 4", "B1"], ("C4", 2 / 3)),
        (["", "", "A1"], ("", 2 / 3)),
        (["B", "A"], ("B", 0.5)),
        (["x"], ("x", 1.0)),
    ],
)
def test_agreement_is_the_share_of_the_most_common_answer(answers: list[str], expected: tuple[str, float]) -> None:
    assert same_answer(answers) == expected
