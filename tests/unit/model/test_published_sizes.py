"""The published 3B and 7B configurations on the meta device: names, shapes, vocabulary rows, what trains, the forward.

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
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.latent_forward import latent_forward
from covt_model.latents.policy import LatentPolicy

PUBLISHED = Path(__file__).parent / "published"
# Tokens of the published tokenizer; the latent tokens take the next three ids.
TOKENIZER = 151_665
# size: (all parameters, tensors in the files, embedding rows, hidden size, tied output matrix)
SIZES = {"3b": (3_754_622_976, 824, 151_936, 2048, True), "7b": (8_292_166_656, 729, 152_064, 3584, False)}


@pytest.fixture(scope="module", params=SIZES)
def published(request):
    """(the figures above, the model on the meta device)."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig.from_dict(json.loads((PUBLISHED / f"qwen2.5-vl-{request.param}.json").read_text()))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config).eval()
    return SIZES[request.param], model


def test_parameters_have_the_published_names_and_number(published):
    (count, tensors, *_), model = published
    named = {checkpoint_name(name): tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert sum(tensor.numel() for tensor in model.parameters()) == count
    assert len(named) == tensors
    assert set(named) >= {
        "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.bias",
        "visual.patch_embed.proj.weight", "visual.blocks.31.attn.qkv.weight", "visual.merger.mlp.2.bias",
    }  # fmt: skip
    hidden = published[0][3]
    assert named["visual.merger.mlp.2.weight"] == (hidden, 5120)
    assert named["model.layers.0.self_attn.q_proj.weight"] == (hidden, hidden)


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
