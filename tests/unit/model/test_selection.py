"""Selection against formulas written out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covt_model.targets.selection import fill, mean_runs, pool, segment_query, select, select_targets, user_context


@given(count=st.integers(1, 40), runs=st.integers(1, 40))
def test_runs_are_disjoint_contiguous_and_nearly_equal(count, runs):
    features = torch.arange(count, dtype=torch.float32)[:, None].expand(count, 2)
    if count < runs:
        with pytest.raises(ValueError, match="runs"):
            mean_runs(features, runs)
        return
    edges = [i * count // runs for i in range(runs + 1)]
    expected = [np.mean(range(a, b)) for a, b in pairwise(edges)]
    assert mean_runs(features, runs)[:, 0].tolist() == pytest.approx(expected)


def test_candidates_are_pooled_from_256_on():
    assert pool(torch.randn(255, 3)).shape == (255, 3)
    assert pool(torch.randn(256, 3)).shape == (256, 3)
    assert pool(torch.randn(1000, 3)).shape == (256, 3)


def test_context_is_the_attended_picture_averaged_with_the_prompt():
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    image, hidden = torch.randn(5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    weights = np.zeros(5)
    for head in range(2):
        for token in range(3):
            scores = np.array([float(queries[head, token] @ keys[head, i]) / 2.0 for i in range(5)])
            weights += np.exp(scores) / np.exp(scores).sum() / 6
    expected = (weights @ image.numpy() + hidden.numpy().mean(0)) / 2
    np.testing.assert_allclose(user_context(queries, keys, image, hidden).numpy(), expected, rtol=1e-5, atol=1e-6)
    alone = user_context(queries, keys[:, :0], image[:0], hidden)
    np.testing.assert_allclose(alone.numpy(), hidden.numpy().mean(0), rtol=1e-5, atol=1e-6)


def test_a_query_averages_what_there_is():
    context, text, previous = torch.full((2,), 3.0), torch.tensor([[1.0, 1], [3, 3]]), torch.tensor([[10.0, 10]])
    assert segment_query(context, text, None).tolist() == [2.5, 2.5]
    assert segment_query(context, text[:0], None).tolist() == [3, 3]
    assert segment_query(context, text, previous).tolist() == [5, 5]


def line(cosines: list[float]) -> torch.Tensor:
    """Unit vectors with these cosines to (1, 0)."""
    return torch.tensor([[c, (1 - c * c) ** 0.5] for c in cosines])


def test_best_first_and_no_more_than_asked():
    query = torch.tensor([1.0, 0.0])
    assert select(line([0.1, 0.9, 0.5]), query, 2, top_p=1.0).tolist() == [1, 2]
    assert select(line([0.1, 0.9, 0.5]), 7 * query, 5, top_p=1.0).tolist() == [1, 2, 0]


def test_top_p_is_the_smallest_set_that_reaches_p():
    candidates, query = line([0.9, 0.1, 0.0]), torch.tensor([1.0, 0.0])
    probabilities = np.exp(np.array([9.0, 1, 0])) / np.exp(np.array([9.0, 1, 0])).sum()
    assert probabilities[0] > 0.99
    assert select(candidates, query, 3, top_p=0.9, temperature=0.1).tolist() == [0]
    assert select(candidates, query, 3, top_p=float(probabilities[0]) + 1e-5, temperature=0.1).tolist() == [0, 1]


@given(st.lists(st.floats(-1, 1), min_size=13, max_size=60))
def test_at_temperature_1_top_p_can_not_bind_below_7_of_13(cosines):
    chosen = select(line(cosines), torch.tensor([1.0, 0.0]), 7, top_p=0.9, temperature=1.0)
    assert len(chosen) == 7


def test_missing_targets_repeat_the_best_and_helpers_share_the_latents():
    two = torch.tensor([[4.0, 1], [2, 1]])
    assert fill(two, 5, "repeat")[:, 0].tolist() == [4, 2, 4, 4, 4]
    assert fill(two, 5, "unaligned")[:, 0].tolist() == [4, 2, 0, 0, 0]
    assert fill(two, 2, "unaligned").tolist() == two.tolist()
    helpers = [line([0.2, 0.99, 0.1]), line([0.97, 0.0])]
    targets, chosen, selected = select_targets(helpers, torch.tensor([1.0, 0]), 4, top_p=0.9, temperature=0.05)
    assert [c.tolist() for c in chosen] == [[1], [0]]
    assert torch.equal(targets, torch.stack([helpers[0][1]] * 2 + [helpers[1][0]] * 2))
    assert torch.equal(selected, torch.stack([helpers[0][1], helpers[1][0]]))
    with pytest.raises(ValueError, match="3 helper images"):
        select_targets([helpers[0]] * 3, torch.tensor([1.0, 0]), 4, top_p=0.9, temperature=1.0)
