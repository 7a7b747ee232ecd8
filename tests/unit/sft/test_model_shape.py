"""Sizes counted from published configs, against the real architecture on the meta device."""

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from covt_model.families.qwen2_5_vl.published_sizes import PUBLISHED
from covt_runtime.engine.memory_estimate import adapter_parameters
from covt_runtime.engine.model_shape import model_shape
from covt_runtime.recipe_schema import LoraSection
from covt_sft.planning.memory_check import MemoryInputs
from covt_sft.sft_recipe import SftConfig


def on_meta(config: dict) -> Qwen2_5_VLForConditionalGeneration:
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config))


@pytest.mark.parametrize(
    ("name", "parameters"), [("3B", 3_754_622_976), ("7B", 8_292_166_656), ("32B", 33_452_718_336)]
)
def test_parameters_are_those_of_the_published_model(name, parameters):
    size = model_shape(PUBLISHED[name])
    model = on_meta(PUBLISHED[name])
    vision = sum(p.numel() for p in model.model.visual.parameters())
    assert size.vision == vision
    assert size.language + size.vision == sum(p.numel() for p in model.parameters()) == parameters


def test_the_sharded_state_is_the_sum_over_the_real_parameters():
    """Each parameter is cut into `ranks` equal shards, the last padded; 7B, full fine-tuning in bf16 on 8 ranks."""
    model, ranks = on_meta(PUBLISHED["7B"]), 8
    model.model.visual = None
    shards = sum(-(-p.numel() // ranks) for p in model.parameters())
    config = SftConfig.model_validate({"model": {"gradient_checkpointing": True}})
    device = MemoryInputs(PUBLISHED["7B"], ranks, on_gpu=True, longest=4096).estimate(config).at("none")
    held = device["weights"] + device["optimizer"] + device["gradients"] + device["teacher"]
    assert held == pytest.approx(shards * (2 + 12 + 4 + 4), rel=1e-4)


@pytest.mark.parametrize("targets", [LoraSection().targets, ("q_proj", "v_proj"), ("down_proj",)])
def test_adapters_have_as_many_parameters_as_peft_makes(targets):
    from covt_model.checkpoints.lora import add_lora
    from covt_model.latent_config import LatentConfig

    config, section = PUBLISHED["3B"], LoraSection(rank=16, targets=targets)
    model = on_meta(config)
    with torch.device("meta"):
        add_lora(model, LatentConfig(start_id=1, pad_id=2, end_id=3), **section.model_dump())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == adapter_parameters(model_shape(config), section) + 3 * config["hidden_size"]
