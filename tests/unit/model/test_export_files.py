"""Exports are complete stock checkpoints: same weights where nothing was trained, new ones where it was."""

from __future__ import annotations

import pytest
import torch

from covt_model.checkpoints.hf_folder import SourceWeights, checkpoint_name, write_checkpoint
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.latent_config import LatentConfig
from covt_model.model_errors import CheckpointError, ModelError


def trained(model, factor: float):
    """The language model's parameters as an engine yields them, under a wrapper's names, changed by a factor."""
    return [
        (f"policy.model.{name}", tensor * factor) for name, tensor in model.named_parameters() if "visual" not in name
    ]


@pytest.mark.parametrize("shard_bytes", [10**9, 100_000])
def test_an_export_has_the_new_weights_and_the_old_tower(tiny, tiny_model, tmp_path, shard_bytes):
    from transformers import AutoProcessor

    latent = LatentConfig.read(tiny)
    out = write_checkpoint(trained(tiny_model, 2.0), tiny, tmp_path / "run" / "hf", latent, shard_bytes=shard_bytes)
    assert (out / "model.safetensors.index.json").exists() == (shard_bytes < 10**6)
    loaded = load_model(out)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    for (name, old), (_, new) in zip(tiny_model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(new, old if "visual" in name else 2 * old), name
    assert LatentConfig.read(out) == latent
    processor = AutoProcessor.from_pretrained(out)
    assert processor.tokenizer.convert_tokens_to_ids("<|latent_pad|>") == latent.pad_id
    assert "covt serve" in (out / "README.md").read_text()
    assert not (tmp_path / "run" / "hf.partial").exists()


def test_an_export_replaces_an_older_one_and_the_pause_control_says_so(tiny, tiny_model, tmp_path):
    latent = LatentConfig.read(tiny)
    out = write_checkpoint(trained(tiny_model, 2.0), tiny, tmp_path / "hf", latent)
    pause = LatentConfig(start_id=latent.start_id, pad_id=latent.pad_id, end_id=latent.end_id, size=4, head="none")
    write_checkpoint(trained(tiny_model, 3.0), tiny, out, pause)
    assert LatentConfig.read(out).head == "none" and "pause control" in (out / "README.md").read_text()
    norm = "model.norm.weight"
    assert torch.equal(SourceWeights(out).read(norm), 3 * SourceWeights(tiny).read(norm))


def test_other_ranks_only_take_part_in_the_gathering(tiny, tmp_path):
    taken = []
    named = ((name, taken.append(name)) for name in ("a", "b"))
    write_checkpoint(named, tiny, tmp_path / "hf", LatentConfig.read(tiny), is_main=False)
    assert taken == ["a", "b"] and not (tmp_path / "hf").exists()


def test_missing_unknown_and_misshapen_parameters_are_refused_and_nothing_is_left(tiny, tiny_model, tmp_path):
    latent, named = LatentConfig.read(tiny), trained(tiny_model, 1.0)
    with pytest.raises(ModelError, match="1 parameters were not given"):
        write_checkpoint(named[:-1], tiny, tmp_path / "hf", latent)
    with pytest.raises(ModelError, match="not in the source"):
        write_checkpoint([*named, ("model.language_model.extra", torch.zeros(1))], tiny, tmp_path / "hf", latent)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is \(3,\)"):
        write_checkpoint([("model.language_model.norm.weight", torch.zeros(3))], tiny, tmp_path / "hf", latent)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no safetensors"):
        write_checkpoint(named, tmp_path, tmp_path / "hf", latent)


def test_names_of_wrapped_and_published_parameters():
    assert checkpoint_name("policy.model.model.language_model.layers.0.mlp.up_proj.weight") == (
        "model.layers.0.mlp.up_proj.weight"
    )
    assert checkpoint_name("model.visual.merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert checkpoint_name("visual.merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert checkpoint_name("policy.model.lm_head.weight") == "lm_head.weight"
    assert checkpoint_name("model.norm.weight") == "model.norm.weight"
