"""Our patches equal the Hugging Face processor's; crops and cached features are the right ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from model_samples import png, random_picture

from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.checkpoints.tiny_checkpoint import build_tiny
from covt_model.encoding.row_images import Picture, decode
from covt_model.encoding.vision_features import CELLS, VisionFeatures
from covt_model.families import read_image_settings
from covt_model.families.image_patches import patchify
from covt_model.model_errors import ModelError


@pytest.mark.parametrize("size", [(112, 112), (28, 28), (32, 32), (56, 84), (50, 61), (20, 30), (1000, 300)])
def test_patches_equal_the_processor(tiny, size):
    from transformers import AutoImageProcessor

    pictures = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = AutoImageProcessor.from_pretrained(tiny)(images=list(pictures), return_tensors="pt")
    values, grid = patchify(pictures, read_image_settings(tiny))
    assert expected["image_grid_thw"].tolist() == [list(grid)] * 3
    torch.testing.assert_close(values, expected["pixel_values"], rtol=0, atol=2e-6)


def test_whole_cells_keep_their_size(tiny, side):
    settings = read_image_settings(tiny)
    for cells in (1, 4, 16):
        _, grid = patchify(torch.zeros(1, 3, side * cells, side * cells, dtype=torch.uint8), settings)
        assert grid == (1, 2 * cells, 2 * cells)


def test_png_bytes_decode_to_the_picture_and_boxes_outside_are_refused():
    picture = random_picture(torch.Generator().manual_seed(1), 2)
    assert torch.equal(decode(png(picture)), picture)
    assert torch.equal(decode(png(picture), (28, 0, 56, 28)), picture[:, :28, 28:])
    with pytest.raises(ModelError, match="not inside the 56×56"):
        decode(png(picture), (28, 0, 57, 28))
    with pytest.raises(ModelError, match="can't be decoded"):
        decode(b"not a picture")


@pytest.fixture(scope="module")
def attentive(family, side, tmp_path_factory) -> torch.nn.Module:
    """A vision tower whose blocks attend to the whole picture, so that a cell's feature depends on its picture."""
    pictures = [random_picture(torch.Generator().manual_seed(n), 2, side) for n in range(8)]
    folder = tmp_path_factory.mktemp("attentive")
    build_tiny(folder, ["text"], pictures, family=family.model_type, window=16 * side, vision_depth=2)
    return load_model(folder).model.visual


@pytest.fixture
def forwards(tiny_model, attentive):
    """Counts the forwards of both towers."""
    calls: list[int] = []
    handles = [
        tower.register_forward_hook(lambda *_: calls.append(1)) for tower in (tiny_model.model.visual, attentive)
    ]
    yield calls
    for handle in handles:
        handle.remove()


def some_pictures(seed: int, side: int) -> list[Picture]:
    generator = torch.Generator().manual_seed(seed)
    pictures = [Picture(png(random_picture(generator, cells, side))) for cells in (2, 1, 2, 3)]
    crops = [Picture(pictures[0].data, (0, 0, side, side)), Picture(pictures[0].data, (side, side, 2 * side, 2 * side))]
    return [*pictures, *crops, pictures[0]]


@pytest.mark.parametrize("whole", [True, False])
def test_cached_features_equal_the_tower_and_are_computed_once(tiny, tiny_model, attentive, forwards, whole):
    visual = attentive if whole else tiny_model.model.visual
    settings = read_image_settings(tiny)
    wanted = some_pictures(2, settings.cell)
    features = VisionFeatures(visual, settings)
    first = features(wanted)
    made = len(forwards)
    again = features(wanted)
    # Four different pictures and two crops go together, and so do the 4 + 1 + 4 + 9 cells.
    assert made == 1 and len(forwards) == made
    with torch.no_grad():
        for picture, ours, second in zip(wanted, first, again, strict=True):
            values, grid = patchify(picture.pixels()[None], settings)
            output = visual(values, grid_thw=torch.tensor([grid]))
            expected = torch.cat([output.pooler_output, *getattr(output, "deepstack_features", [])], dim=1)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
            assert ours is second


def test_a_cell_has_its_own_feature_only_under_one_cell_windows(tiny, tiny_model, attentive):
    settings = read_image_settings(tiny)
    wanted = some_pictures(3, settings.cell)
    for visual, same in ((tiny_model.model.visual, True), (attentive, False)):
        features = VisionFeatures(visual, settings)(wanted)
        assert torch.allclose(features[4][0], features[0][0], atol=1e-4) == same


def test_equal_looking_crops_of_different_pictures_share_a_forward(tiny, side, attentive, forwards):
    picture = random_picture(torch.Generator().manual_seed(3), 2, side)
    changed = picture.clone()
    changed[:, side:] = 0
    features = VisionFeatures(attentive, read_image_settings(tiny))
    one, other = features([Picture(png(image), (0, 0, side, side)) for image in (picture, changed)])
    assert len(forwards) == 1 and torch.equal(one, other)


@pytest.mark.parametrize(("batch_patches", "made"), [(0, 6), (10**6, 1), (24, 4)])
def test_pictures_of_any_sizes_go_together_up_to_the_limit(tiny, attentive, forwards, batch_patches, made):
    """16 + 4 patches; 16; 36, over the limit of 24 alone; the crops' 4 + 4. Features equal those one by one."""
    settings = read_image_settings(tiny)
    wanted = some_pictures(6, settings.cell)
    one_by_one = VisionFeatures(attentive, settings, batch_patches=0)(wanted)
    forwards.clear()
    together = VisionFeatures(attentive, settings, batch_patches=batch_patches)(wanted)
    assert len(forwards) == made
    for ours, expected in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_cells_feature_depends_on_the_cell_alone_to_the_last_bit(tiny, tiny_model, forwards):
    """So a resumed training, which computes a feature beside others, has the same losses."""
    settings, visual = read_image_settings(tiny), tiny_model.model.visual
    generator = torch.Generator().manual_seed(9)
    pictures = [Picture(png(random_picture(generator, 3, settings.cell))) for _ in range(9)]
    together = VisionFeatures(visual, settings)(pictures)
    assert len(forwards) == -(-81 // CELLS)
    for number in (0, 4, 8):
        (alone,) = VisionFeatures(visual, settings)([pictures[number]])
        assert torch.equal(alone, together[number])


@pytest.mark.parametrize("whole", [True, False])
def test_features_that_are_not_kept_live_for_their_step(tiny, tiny_model, attentive, forwards, whole):
    """Within the step, where targets and forward ask for the same pictures, they are computed once."""
    visual, settings = attentive if whole else tiny_model.model.visual, read_image_settings(tiny)
    wanted = some_pictures(8, settings.cell)
    expected = VisionFeatures(visual, settings)(wanted)
    features = VisionFeatures(visual, settings, keeps=False)
    for _ in range(2):
        forwards.clear()
        features.begin_step(features.decoder.decode(wanted, features.known))
        assert features.bytes == 0
        assert all(torch.equal(one, other) for one, other in zip(features(wanted), expected, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(features(wanted), expected, strict=True))
        assert len(forwards) == 1
        # The next step's pictures are decoded while this step runs, and must not count on its features.
        assert wanted[0].key not in features.known


def test_pictures_decoded_ahead_in_threads_are_not_decoded_again(tiny, side, attentive, monkeypatch):
    wanted = some_pictures(7, side)
    expected = VisionFeatures(attentive, read_image_settings(tiny))(wanted)
    features = VisionFeatures(attentive, read_image_settings(tiny))
    with ThreadPoolExecutor(3) as pool:
        features.begin_step(features.decoder.decode(wanted, features.known, apply=pool.map))
    monkeypatch.setattr(Picture, "pixels", lambda self: pytest.fail("decoded in the step"))
    ours = features(wanted)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))
    assert features.decoder.decode(wanted, features.known) == {}
