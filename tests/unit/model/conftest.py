"""A tiny checkpoint built once for all model tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_samples import make_row, random_picture

from covt_model.checkpoints.tiny_checkpoint import build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of hidden size 64 with two layers and latent size 4."""
    generator = torch.Generator().manual_seed(0)
    rows = [make_row(index) for index in range(20)]
    texts = [row.question + " ".join(step.text or "" for step in row.steps) for row in rows]
    images = [random_picture(generator, 2) for _ in range(8)] + [random_picture(generator, 1) for _ in range(16)]
    return build_tiny(tmp_path_factory.mktemp("tiny"), texts, images, latent_size=4)


@pytest.fixture(scope="session")
def tiny_model(tiny: Path):
    from covt_model.checkpoints.latent_checkpoint import load_model

    return load_model(tiny)
