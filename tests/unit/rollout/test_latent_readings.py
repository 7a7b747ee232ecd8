"""What latents resemble: cosines and words against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from covt_rollout.latent_readings import nearest_words, patch_cosines

V, H = 11, 6


class Output(torch.nn.Module):
    """An output matrix in the place where vLLM's models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Linear(H, V, bias=False)
        torch.manual_seed(0)
        torch.nn.init.normal_(self.matrix.weight)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.matrix(hidden)


@pytest.fixture
def latents() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, H)).astype(np.float32)


def test_cosines_are_numpys_for_each_picture(latents: np.ndarray) -> None:
    features = [torch.randn(n, H, dtype=torch.bfloat16) for n in (4, 1)]
    for found, one in zip(patch_cosines(features, latents), features, strict=True):
        rows = one.float().numpy().astype(np.float64)
        lengths = np.linalg.norm(latents, axis=1)[:, None] * np.linalg.norm(rows, axis=1)[None]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, latents @ rows.T / lengths, atol=1e-5)
    assert np.array_equal(patch_cosines(features[:1], np.zeros((1, H), np.float32))[0], np.zeros((1, 4)))


@pytest.mark.parametrize("count", [1, 4, 50])
def test_words_are_the_largest_softmax_of_the_output_matrix(latents: np.ndarray, count: int) -> None:
    model = Output()
    logits = latents.astype(np.float64) @ model.matrix.weight.detach().numpy().astype(np.float64).T
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for found, row in zip(nearest_words(model, latents, count), probabilities, strict=True):
        order = np.argsort(-row)[:count]
        assert [token for token, _ in found] == order.tolist()
        assert [p for _, p in found] == pytest.approx(row[order].tolist(), abs=1e-6)
