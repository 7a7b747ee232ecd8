"""The memory estimate against closed formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_runtime.engine.memory_estimate import (
    CPU_PROCESS,
    GIB,
    LOGITS_CHUNK,
    MAIN_PROCESS,
    ModelShape,
    TrainingSettings,
    VisionShape,
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
    key_width=16,
    tower=VisionShape(hidden=32, intermediate=80, patch=588),
)
EMBEDDING = 1000 * 64
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
    assert not found.host_total


def test_adapters_are_counted_for_the_recipes_targets_only():
    assert adapter_parameters(SHAPE, ADAPTERS) == 4 * 4 * 192
    assert adapter_parameters(SHAPE, LoraSection(rank=2, targets=("q_proj", "up_proj"))) == 2 * 4 * (128 + 192)
    assert adapter_parameters(SHAPE, LoraSection()) == 0
    device = estimate_memory(SHAPE, settings(lora=ADAPTERS)).at("none")
    assert (device["weights"], device["frozen weights"]) == (3072 * 2 / 2, 7e6 * 2 / 2)
    assert device["optimizer"] == 3 * device["gradients"] == 3 * 4 * 3072 / 2


def test_on_a_cpu_frozen_weights_stay_in_the_files_and_the_ranks_share_the_tower():
    found = estimate_memory(SHAPE, settings(lora=ADAPTERS, on_gpu=False))
    assert found.at("file") == {"frozen weights": 7e6 * 2 / 2, "vision tower": 6e5 * 2}
    assert found.total == found.device_total + found.host_total + 7e6 + 12e5
    assert found.machine_total(2) == 2 * (found.total - 12e5) + 12e5 + MAIN_PROCESS
    trained = estimate_memory(SHAPE, settings(on_gpu=False))
    assert trained.at("file") == {"frozen weights": 0, "vision tower": 12e5}
    assert (trained.at("none")["process"], found.at("none")["process"]) == (CPU_PROCESS, CPU_PROCESS)


def test_a_target_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="the model has no qkv") as caught:
        estimate_memory(SHAPE, settings(lora=LoraSection(rank=4, targets=("up_proj", "qkv"))))
    assert "q_proj, up_proj" in caught.value.remedy


def test_one_gather_per_step_holds_the_whole_model_and_a_message():
    """A message of gathered parameters is a copy of them, and no smaller than the largest parameter."""
    zero = ZeroConfig(gather="step", prefetch_bucket_size=400_000)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * (7e6 + 4e5)
    adapted = estimate_memory(SHAPE, settings(zero, ADAPTERS)).at("none")
    assert adapted["gathered"] == 2 * (7_000_000 + 3072 + 400_000)
    zero = ZeroConfig(gather="step", prefetch_bucket_size=0)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * (7e6 + EMBEDDING)


def test_by_module_the_live_parameters_are_held_and_an_export_holds_the_embedding_twice():
    zero = ZeroConfig(max_live_parameters=1_000_000, max_reuse_distance=800_000, prefetch_bucket_size=500_000)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * 1_500_000
    zero = ZeroConfig(max_live_parameters=0, max_reuse_distance=0, prefetch_bucket_size=0)
    assert estimate_memory(SHAPE, settings(zero)).at("none")["gathered"] == 2 * 2 * EMBEDDING
    assert estimate_memory(SHAPE, settings()).at("none")["gathered"] == 2 * 7e6


@pytest.mark.parametrize(("gather", "unrolls", "whole"), [
    ("step", False, 7e6), ("module", True, 7e6), ("module", False, EMBEDDING),
])  # fmt: skip
def test_gradients_are_whole_until_the_pass_ends_where_weights_are_used_again(gather, unrolls, whole):
    """With generated latents each weight is used in several forwards of one backward pass."""
    zero = ZeroConfig(gather=gather, reduce_bucket_size=500_000)
    device = estimate_memory(SHAPE, settings(zero, unrolls=unrolls)).at("none")
    assert device["whole gradients"] == 2 * whole
    assert device["gradient buckets"] == 2 * 2 * 5e5
    adapted = estimate_memory(SHAPE, settings(zero, ADAPTERS, unrolls=unrolls)).at("none")
    assert adapted["whole gradients"] == 2 * 3072 == adapted["gradient buckets"] / 2


def test_the_optimizers_copy_of_the_gradients_counts_where_it_exceeds_the_backward_pass():
    zero = ZeroConfig(reduce_bucket_size=1000)
    found = estimate_memory(SHAPE, settings(zero, tokens=1)).at("none")
    backward = sum(found[name] for name in ("activations", "logits", "whole gradients", "gradient buckets"))
    assert found["optimizer step"] + backward == pytest.approx(4 * 7e6 / 2)
    assert estimate_memory(SHAPE, settings(zero, tokens=4000)).at("none")["optimizer step"] == 0


@pytest.mark.parametrize("place", ["cpu", "nvme"])
def test_offloading_moves_parts_and_loses_none(place, tmp_path):
    plain = estimate_memory(SHAPE, settings())
    zero = ZeroConfig(offload_optimizer=place, offload_parameters=place, nvme_path=tmp_path)
    moved = estimate_memory(SHAPE, settings(zero))
    assert set(moved.at(place)) >= {"weights", "optimizer", "gradients", "optimizer step"}
    assert sum(part.bytes for part in moved.parts) == sum(part.bytes for part in plain.parts)
    copy = moved.at(place)["optimizer step"]
    assert moved.host_total == (pytest.approx(18e6 * 7 / 2 + copy) if place == "cpu" else 0)


def test_activations_follow_from_tokens_layers_and_checkpointing():
    layer, working = 400 * (9 * 64 + 2 * 16 + 3 * 128) * 2, 400 * 4 * (64 + 128) * 2
    plain = estimate_memory(SHAPE, settings(gradient_checkpointing=False)).at("none")
    assert plain["activations"] == 4 * layer + working
    assert (plain["logits"], plain["keys and values"]) == (400 * 1000 * 4, 0)
    recomputed = estimate_memory(SHAPE, settings(unrolls=True)).at("none")
    assert recomputed["activations"] == 4 * 400 * 64 * 2 + layer + working
    assert recomputed["keys and values"] == 4 * 4 * 16 * 400 * 2
    assert estimate_memory(SHAPE, settings(tokens=400_000)).at("none")["logits"] == LOGITS_CHUNK


def test_the_towers_forward_has_the_patches_of_the_tokens_at_most():
    few = estimate_memory(SHAPE, settings(patches=100)).at("none")["vision forward"]
    assert few == 100 * (3 * 80 + 8 * 32 + 3 * 588) * 2
    assert estimate_memory(SHAPE, settings(patches=10_000)).at("none")["vision forward"] == 16 * few


def test_each_part_names_the_recipe_key_that_lowers_it():
    found = estimate_memory(SHAPE, settings(gradient_checkpointing=False, feature_cache=4 * GIB))
    assert all(part.lowered_by for part in found.parts if part.bytes)
    assert found.remedies(count=1) == "image features (4.0 GiB) by data.feature_cache_gib"
    lines = found.lines("a rank")
    assert lines[0] == f"a rank: {found.device_total / GIB:.2f} GiB"
    assert "     4.00  image features (lowered by data.feature_cache_gib)" in lines
    assert sum(float(part["bytes"]) for part in found.as_dict()) == found.device_total


def test_lines_tell_the_places_apart():
    found = estimate_memory(SHAPE, settings(ZeroConfig(offload_optimizer="cpu"), on_gpu=False))
    titles = [line.partition(":")[0] for line in found.lines("a rank") if not line.startswith(" ")]
    assert titles[:2] == ["a rank", "a rank, in host memory"]
    assert titles[2].startswith("a rank, in pages of the checkpoint's files")
