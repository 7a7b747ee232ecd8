"""Adding latent tokens to a checkpoint that has none: free rows are used, nothing else changes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from covt_model.checkpoints.hf_folder import SourceWeights
from covt_model.checkpoints.latent_checkpoint import load_model, prepare_checkpoint
from covt_model.encoding.latent_tokens import LatentIds, initialize_rows, rows_needed
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
    from transformers import AutoTokenizer

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
