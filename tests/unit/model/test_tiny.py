"""The tiny checkpoint is complete, and its vision features are centred."""

from __future__ import annotations

import json

import pytest
import torch
from model_samples import png, random_picture

from covt_model.checkpoints.tiny_checkpoint import build_tiny
from covt_model.encoding.row_images import Picture
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.families import find_family, read_image_settings
from covt_model.latent_config import LatentConfig
from covt_model.model_errors import CheckpointError, ModelError


def test_transformers_loads_it_and_the_vocabulary_has_room(tiny, tiny_model):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny)
    latent = LatentConfig.read(tiny)
    assert latent.size == 4 and latent.normalize == "rms" and latent.head == "identity"
    tokens = processor.tokenizer.convert_ids_to_tokens([latent.start_id, latent.pad_id, latent.end_id])
    assert tokens == ["<|latent_start|>", "<|latent_pad|>", "<|latent_end|>"]
    rows = tiny_model.get_input_embeddings().weight.shape[0]
    assert len(processor.tokenizer) <= rows == tiny_model.config.text_config.vocab_size
    assert processor.tokenizer.decode([latent.start_id], skip_special_tokens=True) == ""
    assert tiny_model.lm_head.weight is tiny_model.get_input_embeddings().weight


def test_visual_tokens_of_the_sample_pictures_have_mean_zero_and_deviation_one(tmp_path):
    generator = torch.Generator().manual_seed(7)
    pictures = [random_picture(generator, 2) for _ in range(6)] + [random_picture(generator, 1) for _ in range(6)]
    out = build_tiny(tmp_path / "tiny", ["some text"], pictures, seed=3)
    from covt_model.checkpoints.latent_checkpoint import load_model

    visual = load_model(out).model.visual
    features = VisionFeatures(visual, read_image_settings(out))
    tokens = torch.cat(features([Picture(png(picture)) for picture in pictures]))
    assert tokens.mean(0).abs().max() < 1e-4
    assert (tokens.std(0) - 1).abs().max() < 1e-3


def test_the_seed_decides_the_weights(tmp_path):
    pictures = [random_picture(torch.Generator().manual_seed(1), 2)]
    folders = [build_tiny(tmp_path / str(n), ["text"], pictures, seed=seed) for n, seed in enumerate((1, 1, 2))]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] != weights[2]


def test_chat_roles_and_first_words_are_single_tokens(tmp_path):
    from transformers import AutoTokenizer

    pictures = [random_picture(torch.Generator().manual_seed(1), 2)]
    folder = build_tiny(tmp_path / "tiny", ["<image>Follow the arrows."] * 3, pictures)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for word in ("system", "user", "assistant", "Follow"):
        assert len(tokenizer.encode(word)) == 1, word


def test_latent_settings_survive_writing_and_bad_ones_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        LatentConfig.read(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
    with pytest.raises(ModelError, match="no latent tokens") as caught:
        LatentConfig.read(tmp_path)
    assert "covt sft" in caught.value.remedy
    config = LatentConfig(start_id=1, pad_id=2, end_id=3, head="none")
    config.write(tmp_path)
    assert LatentConfig.read(tmp_path) == config
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2_5_vl"
    for values, message in [
        ({"start_id": 1, "pad_id": 2, "end_id": 3, "haed": "x"}, "haed"),
        ({"start_id": 1, "pad_id": 2}, "end_id"),
        ({"start_id": 1, "pad_id": 1, "end_id": 3}, "distinct"),
        ({"start_id": 1, "pad_id": 2, "end_id": 3, "head": "conv"}, "conv"),
        ({"start_id": 1, "pad_id": 2, "end_id": 3, "version": 2}, "version"),
    ]:
        with pytest.raises(ModelError, match=message):
            LatentConfig.from_dict(values)


def test_latent_settings_of_another_family_are_refused(tiny, family, tmp_path):
    config = json.loads((tiny / "config.json").read_text())
    assert config["covt_latent"]["model_type"] == config["model_type"] == family.model_type
    config["covt_latent"]["model_type"] = "other_vl"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=f"a '{family.model_type}' model with latent settings of a 'other_vl'"
    ) as caught:
        LatentConfig.read(tmp_path)
    assert "covt_latent" in caught.value.remedy


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen3_vl_moe", "text_config": {"num_experts": 128}}, "mixture of experts"),
        (
            {"model_type": "qwen3_5", "text_config": {"layer_types": ["linear_attention", "full_attention"]}},
            "layers of linear_attention: the latent step needs attention in every layer",
        ),
        ({"model_type": "qwen3_vl_text", "hidden_size": 64}, "a language model without its vision tower"),
        ({"model_type": "qwen3_vl", "text_config": {}}, "no vision tower: its config lacks vision_config"),
        ({"model_type": "llama"}, "is of no known family"),
    ],
)
def test_models_that_are_not_supported_are_refused_with_the_reason(config, message):
    with pytest.raises(ModelError, match=message) as caught:
        find_family(config, "the/checkpoint")
    assert "the/checkpoint" in str(caught.value) and "Qwen2.5-VL or Qwen3-VL" in caught.value.remedy
