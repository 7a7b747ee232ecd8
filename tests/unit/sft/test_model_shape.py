"""Sizes counted from published configs, against the real architecture on the meta device."""

import pytest
import torch

from covt_model.families import find_family, published_config
from covt_runtime.engine.memory_estimate import adapter_parameters
from covt_runtime.recipe_schema import LoraSection
from covt_sft.planning.memory_check import MemoryInputs, shape_of
from covt_sft.sft_recipe import SftConfig

PUBLISHED = {
    name: config
    for name in (*(f"Qwen2.5-VL-{size}" for size in ("3B", "7B", "32B")), *(f"Qwen3-VL-{n}B" for n in (2, 4, 8)))
    if (config := published_config(f"Qwen/{name}-Instruct")) is not None
}


def on_meta(config: dict):
    model_class = find_family(config).model_class()
    with torch.device("meta"):
        return model_class(model_class.config_class(**config))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen2.5-VL-3B", 3_754_622_976),
        ("Qwen2.5-VL-7B", 8_292_166_656),
        ("Qwen2.5-VL-32B", 33_452_718_336),
        ("Qwen3-VL-2B", 2_127_532_032),
        ("Qwen3-VL-4B", 4_437_815_808),
        ("Qwen3-VL-8B", 8_767_123_696),
    ],
)
def test_parameters_are_those_of_the_published_model(name, parameters):
    size = shape_of(PUBLISHED[name])
    model = on_meta(PUBLISHED[name])
    vision = sum(p.numel() for p in model.model.visual.parameters())
    assert size.vision == vision
    assert size.language + size.vision == sum(p.numel() for p in model.parameters()) == parameters


def test_the_sharded_state_is_the_sum_over_the_real_parameters():
    """Each parameter is cut into `ranks` equal shards, the last padded; 7B, full fine-tuning in bf16 on 8 ranks."""
    model, ranks = on_meta(PUBLISHED["Qwen2.5-VL-7B"]), 8
    model.model.visual = None
    shards = sum(-(-p.numel() // ranks) for p in model.parameters())
    config = SftConfig.model_validate({"model": {"gradient_checkpointing": True}})
    device = MemoryInputs(PUBLISHED["Qwen2.5-VL-7B"], ranks, on_gpu=True, longest=4096).estimate(config).at("none")
    held = device["weights"] + device["optimizer"] + device["gradients"] + device["teacher"]
    assert held == pytest.approx(shards * (2 + 12 + 4 + 4), rel=1e-4)


@pytest.mark.parametrize("name", ["Qwen2.5-VL-3B", "Qwen3-VL-4B"])
@pytest.mark.parametrize("targets", [LoraSection().targets, ("q_proj", "v_proj"), ("down_proj",)])
def test_adapters_have_as_many_parameters_as_peft_makes(name, targets):
    from covt_model.checkpoints.lora import add_lora
    from covt_model.latent_config import LatentConfig

    config, section = PUBLISHED[name], LoraSection(rank=16, targets=targets)
    model = on_meta(config)
    with torch.device("meta"):
        add_lora(model, LatentConfig(start_id=1, pad_id=2, end_id=3), **section.model_dump())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == adapter_parameters(shape_of(config), section) + 3 * shape_of(config).hidden
