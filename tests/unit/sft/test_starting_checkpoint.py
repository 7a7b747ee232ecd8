"""Which checkpoint a training starts from."""

import json
from pathlib import Path

import pytest

from covt_sft.planning.starting_checkpoint import find_checkpoint, starting_checkpoint_folder
from covt_sft.sft_errors import SftError


def folder(path: Path, **config: object) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def test_another_architecture_is_refused(tmp_path: Path):
    with pytest.raises(SftError, match="is a 'llama' model") as caught:
        find_checkpoint(folder(tmp_path / "m", model_type="llama"))
    assert "Qwen2.5-VL" in caught.value.remedy


def test_a_checkpoint_without_latents_gets_a_copy_with_them_in_the_run(tmp_path: Path):
    stock = folder(tmp_path / "stock", model_type="qwen2_5_vl")
    ready = folder(tmp_path / "ready", model_type="qwen2_5_vl", covt_latent={})
    assert starting_checkpoint_folder(stock, tmp_path / "run") == tmp_path / "run" / "init"
    assert starting_checkpoint_folder(ready, tmp_path / "run") == Path(ready)
    assert starting_checkpoint_folder("tiny", tmp_path / "run") == tmp_path / "run" / "init"


def test_a_path_that_is_neither_folder_nor_hub_id_is_refused():
    with pytest.raises(SftError, match="is not a folder and can't be downloaded from the hub"):
        find_checkpoint("no/such/folder")
