"""A tiny checkpoint built once for all model tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_samples import make_row, random_picture

from covt_model.checkpoints.tiny_checkpoint import build_tiny
from covt_model.families import find_family, known_families
from covt_model.families.family import Family


@pytest.fixture(scope="session", params=known_families())
def family(request: pytest.FixtureRequest) -> Family:
    """The model families, one after the other."""
    return find_family(request.param)


@pytest.fixture(scope="session")
def side(family: Family) -> int:
    """Pixels per side of a visual token."""
    return family.image_settings.cell


@pytest.fixture(scope="session")
def tiny(family: Family, side: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of hidden size 64 with two layers and latent size 4."""
    generator = torch.Generator().manual_seed(0)
    rows = [make_row(index, side=side) for index in range(20)]
    texts = [row.question + " ".join(step.text or "" for step in row.steps) for row in rows]
    images = [random_picture(generator, cells, side) for cells in (2,) * 8 + (1,) * 16]
    return build_tiny(
        tmp_path_factory.mktemp("tiny"), texts, images, family=family.model_type, vision_depth=2, latent_size=4
    )


@pytest.fixture(scope="session")
def tiny_model(tiny: Path):
    from covt_model.checkpoints.latent_checkpoint import load_model

    return load_model(tiny)
