"""Trainings that can't be held are refused with the reason."""

import math
from dataclasses import replace

import pytest

from covt_data.ingest.prepare import prepare
from covt_model.checkpoints.hf_folder import file_tensors
from covt_model.families.qwen2_5_vl.published_sizes import PUBLISHED, published
from covt_model.latents.output_head import CHUNK_BYTES
from covt_runtime.engine.memory_estimate import LOGITS_CHUNK, MemoryEstimate
from covt_runtime.process_environment import Machine
from covt_sft.planning.memory_check import MemoryInputs, check_memory, shape_of
from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint, tiny_config
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig

GIB = 2**30
FULL = SftConfig.model_validate({"model": {"gradient_checkpointing": True}, "data": {"micro_batch": 1}})
EIGHT_80 = Machine(8, 80 * GIB, 1000 * GIB)


def inputs(model: dict, ranks: int, *, on_gpu: bool = True) -> MemoryInputs:
    return MemoryInputs(model, ranks, on_gpu, longest=4096)


def training_memory(config: SftConfig, model: dict, ranks: int) -> MemoryEstimate:
    return inputs(model, ranks).estimate(config)


def check_fits(config: SftConfig, model: dict, name: str, machine: Machine, ranks: int) -> None:
    check_memory(config, inputs(model, ranks, on_gpu=machine.gpus > 0), name, machine)


def test_the_full_size_fits_eight_large_gpus():
    check_fits(FULL, PUBLISHED["7B"], "7B", EIGHT_80, 8)


def test_one_gpu_is_too_small_and_offloading_helps():
    one = Machine(1, 80 * GIB, 1000 * GIB)
    with pytest.raises(SftError, match=r"7B on 1 GPUs needs about \d+ GiB on each, which have 80 GiB") as caught:
        check_fits(FULL, PUBLISHED["7B"], "7B", one, 1)
    assert "offload_optimizer" in caught.value.remedy
    offloading = SftConfig.model_validate(FULL.model_dump() | {"zero": {"offload_optimizer": "cpu"}})
    check_fits(offloading, PUBLISHED["7B"], "7B", one, 1)


def test_a_machine_without_gpus_is_told_so():
    with pytest.raises(SftError, match="this machine, which has no GPU, has 24 GiB"):
        check_fits(FULL, PUBLISHED["7B"], "7B", Machine(0, 0, 24 * GIB), 2)


def test_offloading_more_than_the_host_has_is_refused():
    offloading = SftConfig.model_validate(FULL.model_dump() | {"zero": {"offload_optimizer": "cpu"}})
    with pytest.raises(SftError, match="offloads about"):
        check_fits(offloading, PUBLISHED["7B"], "7B", Machine(8, 80 * GIB, 50 * GIB), 8)


def test_published_sizes_are_found_by_name():
    assert published("Qwen/Qwen2.5-VL-7B-Instruct") is PUBLISHED["7B"]
    assert published("runs/mine/hf") is None


def test_a_small_model_fits_a_small_machine():
    tiny = PUBLISHED["3B"] | {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 192, "vocab_size": 512}
    small = MemoryInputs(tiny, 2, on_gpu=False, longest=200, data_bytes=0)
    check_memory(SftConfig(), small, "tiny", Machine(0, 0, 6 * GIB))
    with pytest.raises(SftError, match="2 CPU ranks needs about"):
        check_memory(SftConfig(), replace(small, longest=4000), "tiny", Machine(0, 0, 5 * GIB))


def test_adapters_on_fewer_layers_need_less():
    one = SftConfig.model_validate({"lora": {"rank": 16, "targets": ["q_proj"]}})
    all_layers = SftConfig.model_validate({"lora": {"rank": 16}})
    sizes = [training_memory(config, PUBLISHED["7B"], 8).at("none")["optimizer"] for config in (one, all_layers)]
    assert sizes[0] == 12 * 16 * 28 * 2 * 3584 / 8 < sizes[1]


def test_the_teacher_is_counted_only_where_it_is_a_moving_average():
    frozen = SftConfig.model_validate({"latent": {"teacher": "frozen"}})
    assert "teacher" in training_memory(SftConfig(), PUBLISHED["7B"], 8).at("none")
    assert "teacher" not in training_memory(frozen, PUBLISHED["7B"], 8).at("none")


def test_the_logits_counted_are_a_chunk_of_the_output_head():
    assert LOGITS_CHUNK == CHUNK_BYTES


def test_an_error_proposes_settings_that_fit():
    two = Machine(2, 46 * GIB, 250 * GIB)
    with pytest.raises(SftError, match="3B on 2 GPUs needs about") as caught:
        check_fits(FULL, PUBLISHED["3B"], "3B", two, 2)
    proposed = caught.value.remedy.partition("it fits with ")[2].partition(" (see")[0].split()
    assert proposed
    values = FULL.model_dump()
    for assignment in proposed:
        key, _, value = assignment.partition("=")
        section, _, name = key.partition(".")
        values[section] = values[section] | {name: value}
    check_fits(SftConfig.model_validate(values), PUBLISHED["3B"], "3B", two, 2)


def test_what_no_setting_makes_fit_is_told_its_largest_parts():
    with pytest.raises(SftError, match="72B on 1 GPUs") as caught:
        check_fits(FULL, PUBLISHED["72B"], "72B", Machine(1, 16 * GIB, 64 * GIB), 1)
    assert "lower the largest parts: optimizer (" in caught.value.remedy


def test_the_longest_row_counts_where_it_is_shorter_than_allowed():
    short = MemoryInputs(PUBLISHED["3B"], 2, on_gpu=True, longest=100)
    assert short.estimate(FULL).at("none")["activations"] * 40.96 == pytest.approx(
        inputs(PUBLISHED["3B"], 2).estimate(FULL).at("none")["activations"]
    )


def test_the_tiny_models_size_is_that_of_its_checkpoint(tmp_path):
    prepare("trace", tmp_path / "data", options={"n_train": 16, "n_prompts": 2, "n_test": 2})
    config = SftConfig.model_validate({"data": {"path": str(tmp_path / "data")}})
    folder = build_tiny_checkpoint(config, tmp_path / "data", tmp_path / "tiny")
    built = sum(math.prod(tensor.shape) for tensor in file_tensors(folder / "model.safetensors").values())
    shape = shape_of(tiny_config(config.model.tiny))
    assert shape.language + shape.vision == pytest.approx(built, rel=0.1)
