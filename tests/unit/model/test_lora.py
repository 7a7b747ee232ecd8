"""Adapters merge into a plain model that computes the same."""

import copy
from dataclasses import dataclass

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from covt_model.checkpoints.lora import add_lora, merged
from covt_model.latent_config import LatentConfig
from covt_model.model_errors import ModelError

LATENT = LatentConfig(start_id=50, pad_id=51, end_id=52)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SETTINGS = {"rank": 4, "alpha": 8.0, "targets": TARGETS}
SCALE = 2.0


def tiny(tied: bool) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": tied,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config={"depth": 1, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2},
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config).float().eval()
    model.model.visual = None
    return model


def logits(model, ids):
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    hidden = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(ids), position_ids=positions, use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden)


@pytest.mark.parametrize("tied", [True, False])
def test_the_merged_model_computes_what_the_adapted_one_does(tied):
    plain = tiny(tied)
    adapted = copy.deepcopy(plain)
    add_lora(adapted, LATENT, **SETTINGS)
    ids = torch.tensor([[1, 50, 51, 51, 52, 7, 9]])
    before = logits(plain, ids)
    torch.testing.assert_close(logits(adapted, ids), before)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
        else:
            assert "lora" not in name and not name.endswith(".rows")
    expected = logits(adapted, ids)
    assert not torch.allclose(expected, before, atol=1e-2)
    state = dict(merged(adapted.named_parameters(), SCALE, LATENT))
    assert set(state) == {name for name, _ in plain.named_parameters()}
    if tied:
        with torch.no_grad():
            for name, parameter in plain.named_parameters():
                parameter.copy_(state[name])
    else:
        plain.load_state_dict(state)
    torch.testing.assert_close(logits(plain, ids), expected, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Kept:
    """A tensor that is only read in pieces, as one that lies in a file."""

    tensor: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.tensor.reshape(-1)[start:stop].clone()


@pytest.mark.parametrize("piece", [7, 1000])
def test_weights_merged_in_pieces_are_those_merged_whole(piece):
    adapted = tiny(tied=False)
    add_lora(adapted, LATENT, **SETTINGS)
    for parameter in adapted.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    expected = dict(merged(adapted.named_parameters(), SCALE, LATENT))
    stored = ((name, Kept(parameter.detach())) for name, parameter in adapted.named_parameters())
    found = dict(merged(stored, SCALE, LATENT))
    assert set(found) == set(expected)
    for name, tensor in found.items():
        count = tensor.shape.numel()
        parts = [tensor.read(start, min(start + piece, count)) for start in range(0, count, piece)]
        torch.testing.assert_close(torch.cat(parts).view(tensor.shape), expected[name].detach(), rtol=1e-6, atol=1e-6)


def test_on_other_ranks_the_same_names_come_without_tensors():
    adapted = tiny(tied=False)
    names = [name for name, _ in adapted.named_parameters()]
    add_lora(adapted, LATENT, **SETTINGS)
    stream = merged(((name, None) for name, _ in adapted.named_parameters()), SCALE, LATENT)
    assert sorted(stream) == sorted((name, None) for name in names)


def test_a_target_the_model_lacks_is_refused():
    with pytest.raises(ModelError, match="has no qkv") as caught:
        add_lora(tiny(tied=True), LATENT, **SETTINGS | {"targets": ("qkv",)})
    assert "q_proj" in caught.value.remedy
