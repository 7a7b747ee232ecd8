"""Adding latent tokens to a checkpoint that has none: free rows are used, nothing else changes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from covt_model.checkpoints.hf_folder import SourceWeights, write_checkpoint
from covt_model.checkpoints.latent_checkpoint import load_model, prepare_checkpoint
from covt_model.checkpoints.split_load import load_split
from covt_model.encoding.latent_tokens import initialize_rows, rows_needed
from covt_model.latent_config import LatentConfig
from covt_model.model_errors import ModelError


@pytest.fixture
def published(tiny, tmp_path):
    """The tiny checkpoint as if it came from elsewhere: without latent tokens and settings."""
    folder = tmp_path / "published"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["covt_latent"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if "latent" not in t["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_tokens_take_free_rows_and_all_other_weights_stay(published, tmp_path):
    before = len(AutoTokenizer.from_pretrained(published))
    out = prepare_checkpoint(published, tmp_path / "out", size=6, normalize="rms")
    latent = LatentConfig.read(out)
    assert (latent.start_id, latent.pad_id, latent.end_id) == (before, before + 1, before + 2)
    assert latent.size == 6 and latent.normalize == "rms"
    old, new = SourceWeights(published), SourceWeights(out)
    assert old.names() == new.names()
    for name in old.names():
        ours, theirs = new.read(name), old.read(name)
        if name == "model.embed_tokens.weight":
            assert ours.shape == theirs.shape
            rows = [row for row in range(len(theirs)) if row not in (before, before + 1, before + 2)]
            ours, theirs = ours[rows], theirs[rows]
        assert torch.equal(ours, theirs), name
    load_model(out)


def test_weights_are_links_and_every_reader_sees_the_new_rows(family, published, tmp_path):
    """Beside the links lie the rows alone; Transformers, shards and exports get the same matrix."""
    out = prepare_checkpoint(published, tmp_path / "out")
    assert (out / "model.safetensors").samefile(published / "model.safetensors")
    assert sum(file.stat().st_size for file in (out / "covt_latent").iterdir()) < 4 * 3 * 64 + 200
    ids = list(LatentConfig.read(out).token_ids)
    rows = load_file(out / "covt_latent" / "rows.safetensors")["model.embed_tokens.weight"]
    old = SourceWeights(published).read("model.embed_tokens.weight")
    expected = old.clone()
    expected[ids] = rows
    assert not torch.equal(expected[ids], old[ids])
    assert torch.equal(SourceWeights(out).read("model.embed_tokens.weight"), expected)
    assert torch.equal(load_model(out).get_input_embeddings().weight, expected)
    model, _ = load_split(out, torch.float32)
    assert torch.equal(model.get_input_embeddings().weight, expected) and torch.equal(model.lm_head.weight, expected)
    exported = write_checkpoint(model.named_parameters(), out, tmp_path / "exported", LatentConfig.read(out))
    name = family.stored_name("model.embed_tokens.weight")
    assert torch.equal(load_file(exported / "model.safetensors")[name], expected)
    assert not (exported / "covt_latent").exists()


def test_on_another_file_system_the_links_are_symbolic(published, tmp_path):
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        out = prepare_checkpoint(published, Path(folder) / "out")
        assert (out / "model.safetensors").is_symlink()
        load_model(out)


def test_a_full_vocabulary_grows_and_is_copied(published, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(published)
    free = SourceWeights(published).read("model.embed_tokens.weight").shape[0] - len(tokenizer)
    tokenizer.add_tokens([f"<more{number}>" for number in range(free - 2)])
    tokenizer.save_pretrained(published)
    out = prepare_checkpoint(published, tmp_path / "out")
    before = SourceWeights(published).read("model.embed_tokens.weight")
    after = SourceWeights(out).read("model.embed_tokens.weight")
    assert len(after) == len(before) + 64 and torch.equal(after[: len(before) - 2], before[:-2])
    assert not (out / "covt_latent").exists()
    assert load_model(out).get_input_embeddings().weight.shape[0] == len(after)


def test_the_vocabulary_grows_only_when_full_and_never_shrinks():
    assert rows_needed(151_936, 151_668) == 151_936
    assert rows_needed(152_064, 151_668) == 152_064
    assert rows_needed(320, 320) == 320
    assert rows_needed(320, 321) == 384


def test_new_rows_lie_near_the_mean_and_differ():
    weight = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)) + 3
    weight[30:] = 0
    initialize_rows(weight, (30, 31, 32), 30, torch.Generator().manual_seed(1))
    mean, std = weight[:30].mean(0), weight[:30].std(0)
    assert ((weight[30:33] - mean).abs() < 0.5 * std).all()
    assert not torch.equal(weight[30], weight[31]) and (weight[33:] == 0).all()


def test_another_architecture_is_refused(published, tmp_path):
    (published / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="'llama' model"):
        prepare_checkpoint(published, tmp_path / "out")
    with pytest.raises(ModelError, match="'llama' model"):
        load_model(published)
