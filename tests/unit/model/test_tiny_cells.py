"""The cells that a tiny model's vision tower is scaled with, of images of any size, or of none."""

import pytest
import torch
from model_samples import png, random_picture

from covt_model.checkpoints.tiny_checkpoint import build_tiny, distinct_cells, random_cells
from covt_model.encoding.row_images import decode


@pytest.mark.parametrize(
    ("size", "cells"), [((1, 1), 1), ((5, 1000), 35), ((27, 28), 1), ((28, 57), 2), ((56, 56), 4), ((30, 30), 1)]
)
def test_every_image_gives_its_whole_cells_and_at_least_one(size, cells):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = distinct_cells([image, image])
    assert len(found) == cells and {cell.shape for cell in found} == {(3, 28, 28)}


def test_whole_cells_are_taken_as_they_are():
    image = random_picture(torch.Generator().manual_seed(1), 2)
    assert torch.equal(distinct_cells([image])[0], image[:, :28, :28])


def test_an_image_of_one_pixel_is_decoded():
    image = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    assert torch.equal(decode(png(image)), image)


def test_noise_stands_in_for_images(tmp_path):
    cells = random_cells(8, seed=3)
    assert len(distinct_cells(cells)) == 8
    assert torch.equal(torch.stack(cells), torch.stack(random_cells(8, seed=3)))
    assert (build_tiny(tmp_path / "tiny", ["text"], cells) / "model.safetensors").is_file()
