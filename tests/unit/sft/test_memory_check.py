"""Trainings that can't be held are refused with the reason."""

import pytest

from covt_model.families.qwen2_5_vl.published_sizes import PUBLISHED, published
from covt_model.latents.output_head import CHUNK_BYTES
from covt_runtime.engine.memory_estimate import LOGITS_CHUNK
from covt_runtime.process_environment import Machine
from covt_sft.planning.memory_check import check_memory, training_memory
from covt_sft.sft_errors import SftError
from covt_sft.sft_recipe import SftConfig

GIB = 2**30
FULL = SftConfig.model_validate({"model": {"gradient_checkpointing": True}, "data": {"micro_batch": 1}})
EIGHT_80 = Machine(8, 80 * GIB, 1000 * GIB)


def check_fits(config: SftConfig, model: dict, name: str, machine: Machine, ranks: int) -> None:
    check_memory(training_memory(config, model, ranks), name, machine, ranks)


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
    check_fits(SftConfig(), tiny, "tiny", Machine(0, 0, 6 * GIB), 2)


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
