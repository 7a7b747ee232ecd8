"""The patch that a latent resembles is the one with the highest cosine; helper images win ties."""

import pytest
import torch

from covt_eval.interpretation.nearest_patches import nearest


def place(what: str, feature: list[float]) -> dict:
    return {"picture": f"{what}.png", "what": what, "box": [0, 0, 28, 28], "feature": torch.tensor(feature)}


def test_the_highest_cosine_wins_whatever_the_lengths():
    places = [place("picture", [1.0, 0.0]), place("helper 1", [0.0, 9.0]), place("helper 2", [1.0, 1.0])]
    found = nearest(torch.tensor([[5.0, 0.1], [0.0, 0.2], [3.0, 3.0]]), places)
    assert [one["what"] for one in found] == ["picture", "helper 1", "helper 2"]
    assert found[1]["cosine"] == pytest.approx(1.0) and "feature" not in found[0]


def test_a_helper_image_wins_over_the_same_patch_of_the_picture():
    places = [place("picture", [1.0, 0.0]), place("helper 1", [1.0, 0.0])]
    assert nearest(torch.tensor([[2.0, 0.0]]), places)[0]["what"] == "helper 1"


def test_an_answer_without_latents_resembles_nothing():
    assert nearest(torch.zeros(0, 2), [place("picture", [1.0, 0.0])]) == []
