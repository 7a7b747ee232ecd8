"""The memory estimate against closed formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_runtime.engine.memory_estimate import (
    GIB,
    LOGITS_CHUNK,
    ModelShape,
    TrainingSettings,
    adapter_parameters,
    estimate_memory,
)
from covt_runtime.engine.optimizer_settings import ZeroConfig
from covt_runtime.recipe_schema import LoraSection
from covt_runtime.runtime_errors import ConfigError

SHAPE = ModelShape(
    language=7_000_000,
    vision=600_000,
    layers=4,
    hidden=64,
    intermediate=128,
    vocabulary=1000,
    linears={"q_proj": 4 * 128, "up_proj": 4 * 192},
)
ADAPTERS = LoraSection(rank=4, targets=("up_proj",))


def settings(zero: ZeroConfig | None = None, lora: LoraSection | None = None, **values) -> TrainingSettings:
    given = {"ranks": 2, "tokens": 400, "tokens_key": "data.micro_batch", "gradient_checkpointing": True}
    return TrainingSettings(zero=zero or ZeroConfig(), lora=lora or LoraSection(), **(given | values))


@pytest.mark.parametrize(("dtype", "width"), [("bf16", 2), ("fp32", 4)])
@given(ranks=st.integers(1, 64))
def test_full_fine_tuning_shards_weights_optimizer_and_gradients(dtype, width, ranks):
    found = estimate_memory(
        SHAPE, settings(ZeroConfig(dtype=dtype), ranks=ranks, copies={"teacher": "latent.teacher=frozen"})
    )
    device = found.at("none")
    assert device["weights"] == 7e6 * width / ranks
    assert device["optimizer"] == pytest.approx(7e6 * 12 / ranks)
    assert device["gradients"] == device["teacher"] == 7e6 * 4 / ranks
    assert device["vision tower"] == 6e5 * width
    assert not found.at("cpu")


def test_adapters_are_counted_for_the_recipes_targets_only():
    assert adapter_parameters(SHAPE, ADAPTERS) == 4 * 4 * 192
    assert adapter_parameters(SHAPE, LoraSection(rank=2, targets=("q_proj", "up_proj"))) == 2 * 4 * (128 + 192)
    assert adapter_parameters(SHAPE, LoraSection()) == 0
    device = estimate_memory(SHAPE, settings(lora=ADAPTERS)).at("none")
    assert device["weights"] == (7_000_000 + 3072) * 2 / 2
    assert device["optimizer"] == 3 * device["gradients"] == 3 * 4 * 3072 / 2


def test_a_target_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="the model has no qkv") as caught:
        estimate_memory(SHAPE, settings(lora=LoraSection(rank=4, targets=("up_proj", "qkv"))))
    assert "q_proj, up_proj" in caught.value.remedy


def test_one_gather_per_step_holds_the_whole_model_and_its_gradients():
    """And two buckets of gradients: one that they are collected in, and a copy that the reduction makes."""
    zero = ZeroConfig(gather="step", reduce_bucket_size=500_000)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * (2 * 7e6 + 2 * 5e5)
    zero = ZeroConfig(gather="step", reduce_bucket_size=100_000_000)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * (2 * 7e6 + 2 * 7e6)
    zero = ZeroConfig(gather="step", prefetch_bucket_size=400_000)
    adapted = estimate_memory(SHAPE, settings(zero, ADAPTERS)).at("none")
    assert adapted["gathered"] == 2 * (7_000_000 + 3072 + 400_000)
    limited = ZeroConfig(max_live_parameters=1_000_000, prefetch_bucket_size=500_000, reduce_bucket_size=200_000)
    assert estimate_memory(SHAPE, settings(limited)).at("none")["gathered"] == 2 * 1_700_000


@pytest.mark.parametrize("place", ["cpu", "nvme"])
def test_offloading_moves_parts_and_loses_none(place, tmp_path):
    plain = estimate_memory(SHAPE, settings())
    zero = ZeroConfig(offload_optimizer=place, offload_parameters=place, nvme_path=tmp_path)
    moved = estimate_memory(SHAPE, settings(zero))
    assert set(moved.at(place)) == {"weights", "optimizer", "gradients"}
    assert sum(part.bytes for part in moved.parts) == sum(part.bytes for part in plain.parts)
    assert moved.host_total == (18e6 * 7 / 2 if place == "cpu" else 0)


def test_activations_follow_from_tokens_layers_and_checkpointing():
    layer, logits = 400 * (10 * 64 + 4 * 128) * 2, 400 * 1000 * 4
    kept = estimate_memory(SHAPE, settings(gradient_checkpointing=False)).at("none")["activations"]
    assert kept == layer + 4 * layer + logits
    assert estimate_memory(SHAPE, settings()).at("none")["activations"] == layer + 4 * 400 * 64 * 2 + logits
    many = estimate_memory(SHAPE, settings(tokens=400_000)).at("none")["activations"]
    assert many == 1000 * (layer + 4 * 400 * 64 * 2) + LOGITS_CHUNK


def test_each_part_names_the_recipe_key_that_lowers_it():
    found = estimate_memory(SHAPE, settings(gradient_checkpointing=False, feature_cache=GIB))
    assert all(part.lowered_by for part in found.parts if part.bytes)
    assert found.remedies(count=1) == "image features (1.0 GiB) by data.feature_cache_gib"
    assert found.lines("a rank")[0].startswith(f"a rank: {found.device_total / GIB:.2f} GiB (weights 0.01, ")
    assert sum(float(part["bytes"]) for part in found.as_dict()) == found.device_total


def test_lines_tell_the_places_apart():
    found = estimate_memory(SHAPE, settings(ZeroConfig(offload_optimizer="cpu")))
    assert [line.partition(":")[0] for line in found.lines("a rank")] == ["a rank", "a rank, in host memory"]
