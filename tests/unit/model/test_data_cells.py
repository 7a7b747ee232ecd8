"""Sets of grids whose cells are not the model's visual tokens are refused; other sets have no cells."""

from __future__ import annotations

import pytest

from covt_data.store.manifest import Manifest
from covt_model.encoding.data_cells import check_cells
from covt_model.families import known_image_settings, read_image_settings
from covt_model.model_errors import ModelError


def test_only_the_familys_own_cells_are_taken(tiny, side, tmp_path):
    for source, options in (("trace", {}), ("trace", {"cell_pixels": 32}), ("comt", {}), ("vsp", {"keep_size": True})):
        manifest = Manifest(source=source, version="1", command="", options=options)
        manifest.write(tmp_path)
        if manifest.cell_pixels in (None, side):
            check_cells([tmp_path], lambda: read_image_settings(tiny), tiny)
            continue
        with pytest.raises(ModelError, match=f"cells of {manifest.cell_pixels} pixels.* covers {side}") as caught:
            check_cells([tmp_path], lambda: read_image_settings(tiny), tiny)
        assert f"cell_pixels={side}" in caught.value.remedy


def test_settings_of_folders_and_of_published_names(tiny, side):
    assert known_image_settings(str(tiny)) == read_image_settings(tiny)
    assert known_image_settings("Qwen/Qwen3-VL-4B-Instruct").cell == 32
    assert known_image_settings("Qwen/Qwen2.5-VL-7B-Instruct").cell == 28
    assert known_image_settings("someone/else") is None
    with pytest.raises(ModelError, match="mixture of experts"):
        known_image_settings("Qwen/Qwen3-VL-30B-A3B-Instruct")
