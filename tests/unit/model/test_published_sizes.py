"""Published configurations on the meta device: names, shapes, vocabulary rows, what trains, the forward.

The JSON files hold the values of the published `config.json` files.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from covt_model.checkpoints.hf_folder import checkpoint_name
from covt_model.encoding.latent_tokens import rows_needed
from covt_model.families import find_family
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.latent_forward import latent_forward
from covt_model.latents.policy import LatentPolicy

PUBLISHED = Path(__file__).parent / "published"
# Tokens of the published tokenizer; the latent tokens take the next three ids.
TOKENIZER = 151_665
# name: (all parameters, tensors in the files, embedding rows, hidden size, tied output matrix)
SIZES = {
    "qwen2.5-vl-3b": (3_754_622_976, 824, 151_936, 2048, True),
    "qwen2.5-vl-7b": (8_292_166_656, 729, 152_064, 3584, False),
    "qwen3-vl-2b": (2_127_532_032, 625, 151_936, 2048, True),
    "qwen3-vl-4b": (4_437_815_808, 713, 151_936, 2560, True),
    "qwen3-vl-8b": (8_767_123_696, 750, 151_936, 4096, False),
}
EXPECTED = {
    "qwen2": {
        "model.layers.0.self_attn.k_proj.bias", "visual.blocks.31.attn.qkv.weight", "visual.merger.mlp.2.bias",
    },
    "qwen3": {
        "model.layers.0.self_attn.k_norm.weight", "visual.pos_embed.weight", "visual.merger.linear_fc2.bias",
        "visual.deepstack_merger_list.2.norm.weight",
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(name) -> dict:
    return json.loads((PUBLISHED / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def published(name, config):
    """(the figures above, the model on the meta device)."""
    model_class = find_family(config).model_class()
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(config)).eval()
    return SIZES[name], model


def test_parameters_have_the_published_names_and_number(name, published):
    (count, tensors, *_), model = published
    named = {checkpoint_name(name): tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert sum(tensor.numel() for tensor in model.parameters()) == count
    assert len(named) == tensors
    assert set(named) >= EXPECTED[name[:5]] | {"model.embed_tokens.weight", "visual.patch_embed.proj.weight"}
    text = model.config.text_config
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    assert named["model.layers.0.self_attn.q_proj.weight"] == (width, text.hidden_size)


def test_the_table_of_published_sizes_has_these_configs(name, config):
    """Its parameters are counted by formula in plans, so they are compared with the model's own."""
    size = name.rpartition("-")[2].upper()
    family = find_family(config)
    ours = family.published_config(f"org/{family.title}-{size}-Instruct")
    assert ours is not None and ours["model_type"] == config["model_type"]
    text, theirs = ours.get("text_config") or ours, config.get("text_config") or config
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"):
        assert text[key] == theirs[key]
    assert text.get("head_dim") == theirs.get("head_dim")
    assert ours["tie_word_embeddings"] == config["tie_word_embeddings"]
    vision = config["vision_config"]
    assert {key: value for key, value in ours["vision_config"].items() if vision.get(key, value) != value} == {}


def test_the_familys_counts_are_those_of_the_model(config, published):
    model = published[1]
    family, text = find_family(config), config.get("text_config") or config
    vision = vars(model.config.vision_config)
    assert family.vision_parameters(vision) == sum(p.numel() for p in model.model.visual.parameters())
    layer = model.model.language_model.layers[0]
    vectors = sum(p.numel() for p in layer.parameters() if p.dim() == 1)
    assert family.layer_vectors(text) == vectors - 2 * text["hidden_size"]


def test_files_have_the_names_that_transformers_writes(config, published):
    """Names as the published files have them go through the package's own and come back."""
    family = find_family(config)
    stored = {family.stored_name(checkpoint_name(name)) for name, _ in published[1].named_parameters()}
    prefixes = {
        "qwen2_5_vl": ("model.layers.", "model.embed_tokens.", "model.norm.", "visual.", "lm_head."),
        "qwen3_vl": ("model.language_model.", "model.visual.", "lm_head."),
    }[family.model_type]
    assert all(name.startswith(prefixes) for name in stored)
    assert {family.stored_name(checkpoint_name(name)) for name in stored} == stored


def test_the_latent_tokens_take_rows_that_are_there(published):
    (_, _, rows, hidden, tied), model = published
    assert tuple(model.get_input_embeddings().weight.shape) == (rows, hidden) == tuple(model.lm_head.weight.shape)
    assert rows_needed(rows, TOKENIZER + 3) == rows > TOKENIZER + 2
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_the_language_model_trains_and_the_tower_does_not(published):
    """As `load_split` hands them out: the tower, about a twelfth of the 7B model, is frozen and apart."""
    (count, *_, tied), model = published
    visual = model.model.visual
    model.model.visual = None
    try:
        latent = LatentConfig(start_id=TOKENIZER, pad_id=TOKENIZER + 1, end_id=TOKENIZER + 2)
        policy = LatentPolicy(model, latent, "latent")
        trained = {name: p.numel() for name, p in policy.named_parameters() if p.requires_grad}
        assert sum(trained.values()) == count - sum(p.numel() for p in visual.parameters())
        assert all(name.startswith(("model.model.language_model.", "model.lm_head.")) for name in trained)
        assert ("model.lm_head.weight" in trained) == (not tied)
    finally:
        model.model.visual = visual


def test_the_latent_forward_takes_the_real_shapes(published, monkeypatch):
    """Two samples of 9 and 20 tokens laid end to end, two segments of 4 in the second; layers are all alike."""
    (_, _, _, hidden, _), model = published
    language_model = model.model.language_model
    monkeypatch.setattr(language_model, "layers", language_model.layers[:4])
    embeds, positions = torch.empty(1, 29, hidden, device="meta"), torch.empty(3, 1, 29, device="meta")
    states = latent_forward(
        language_model, embeds, positions, torch.empty(1, 29, device="meta"), [[], [(5, 9), (12, 16)]],
        partial(feedback, normalize="none"), size=4, lengths=[9, 20],
    )  # fmt: skip
    assert states.shape == embeds.shape and states.requires_grad
