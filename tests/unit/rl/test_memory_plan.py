"""Placement and the memory estimate of `covt rl --dry-run`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from covt_rl.planning.memory_plan import REWARD_PROCESS, MemoryPlan, check_machine, checkpoint_shape
from covt_rl.planning.memory_plan import plan_memory as estimate
from covt_rl.planning.placement import Placement
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_runtime.engine.memory_estimate import GIB, GPU_PROCESS
from covt_runtime.process_environment import Machine
from covt_runtime.runtime_errors import ConfigError

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 512,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": TEXT}))
    save_file({"model.a": torch.zeros(100, 10), "lm_head.weight": torch.zeros(24)}, tmp_path / "1.safetensors")
    save_file({"visual.b": torch.zeros(50)}, tmp_path / "2.safetensors")
    return tmp_path


def config(**sections: Any) -> RlConfig:
    return RlConfig.model_validate(sections)


def parts(memory: MemoryPlan) -> dict[str, float]:
    return {part.name: part.bytes for part in memory.trainer.parts}


def test_parameters_are_counted_from_the_headers(checkpoint: Path):
    shape = checkpoint_shape(checkpoint)
    assert (shape.language, shape.vision) == (1024, 50)


def test_what_is_sharded_shrinks_with_the_ranks_and_a_reference_is_held_for_a_kl_only(checkpoint: Path):
    plain = config(zero={"dtype": "bf16"})
    two, four = (estimate(checkpoint, plain, Placement(ranks, (), (), 1)) for ranks in (2, 4))
    assert parts(two)["weights"] == 1024 * 2 / 2
    assert parts(two)["optimizer"] == 1024 * 12 / 2 == 2 * parts(four)["optimizer"]
    assert "reference" not in parts(two)
    regularized = config(zero={"dtype": "bf16"}, algorithm={"kl_weight": 0.01})
    assert parts(estimate(checkpoint, regularized, Placement(2, (), (), 1)))["reference"] == 1024 * 4 / 2
    # On a CPU the server computes in fp32 unless told otherwise.
    assert two.server.at("none")["weights"] == 1074 * 4
    halved = config(zero={"dtype": "bf16"}, server={"dtype": "bfloat16"})
    assert estimate(checkpoint, halved, Placement(2, (), (), 1)).server.at("none")["weights"] == 1074 * 2


def test_with_adapters_only_they_have_an_optimizer_and_a_reference(checkpoint: Path):
    save_file({"model.layers.0.mlp.up_proj.weight": torch.zeros(30, 10)}, checkpoint / "3.safetensors")
    section = {"rank": 4, "targets": ["up_proj"]}
    found = parts(estimate(checkpoint, config(lora=section, algorithm={"kl_weight": 0.01}), Placement(2, (), (), 1)))
    adapters = 4 * (30 + 10)
    assert (found["weights"], found["frozen weights"]) == (adapters * 2 / 2, (1024 + 300) * 2 / 2)
    assert found["optimizer"] == 3 * found["gradients"] == 3 * found["reference"] == 3 * adapters * 4 / 2
    with pytest.raises(ConfigError, match="has no qkv"):
        estimate(checkpoint, config(lora=section | {"targets": ["up_proj", "qkv"]}), Placement(2, (), (), 1))


def test_the_server_gets_the_first_gpus_and_the_trainer_the_others():
    placed = Placement.of(config(server={"gpus": 4, "tensor_parallel": 2}), gpus=8)
    assert (placed.server, placed.trainer, placed.replicas) == ((0, 1, 2, 3), (4, 5, 6, 7), 2)
    shared = Placement.of(config(), gpus=2)
    assert (shared.server, shared.trainer, shared.ranks) == ((), (0, 1), 2)
    assert Placement.of(config(), gpus=0).ranks == 2


def test_a_gpu_that_is_shared_in_turn_never_holds_both_models(checkpoint: Path):
    shared = config(zero={"dtype": "bf16"}, server={"sleep": True})
    found = estimate(checkpoint, shared, Placement.of(shared, gpus=1))
    update, load, sample = found.phases.values()
    assert update == found.trainer.device_total + GPU_PROCESS
    assert (load, sample) == (1074 * 2 + 2 * GPU_PROCESS, found.server.device_total + GPU_PROCESS)
    # Two copies wait for the server: the weights that it has, and the new ones.
    assert (found.published, "weight_folder: 0.00 GiB for 2 copies" in found.lines()[-1]) == (1074 * 2, True)
    assert found.lines()[2] == f"a shared GPU while the server loads weights: {load / GIB:.2f} GiB"
    assert not estimate(checkpoint, config(), Placement.of(config(), gpus=1)).phases


def test_a_machine_that_is_too_small_is_refused_with_numbers(checkpoint: Path):
    wants = config(server={"gpus": 2})
    with pytest.raises(RlError, match=r"server.gpus = 2, this machine has 0 GPUs"):
        check_machine(wants, Placement.of(wants, gpus=0), estimate(checkpoint, wants, Placement.of(wants, gpus=0)))
    alone = Placement.of(wants, gpus=2)
    with pytest.raises(RlError, match="leaves no GPU for the trainer"):
        check_machine(wants, alone, estimate(checkpoint, wants, alone))
    small = config()
    placed = Placement.of(small, gpus=0)
    check_machine(small, placed, estimate(checkpoint, small, placed))
    with pytest.raises(RlError, match=r"this machine, which has no GPU, needs about \d+\.\d GiB and has 0.0 GiB"):
        check_machine(small, placed, estimate(checkpoint, small, placed), Machine(0, 0, 1000))


def test_servers_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"server.gpus = 3 is not a multiple"):
        config(server={"gpus": 3, "tensor_parallel": 2})


HEAD = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "14", "LOCAL_WORLD_SIZE": "6"}
SECOND = {"RANK": "6", "LOCAL_RANK": "0", "WORLD_SIZE": "14", "LOCAL_WORLD_SIZE": "8"}


def launched(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)


def test_on_several_machines_the_server_is_on_the_first(monkeypatch: pytest.MonkeyPatch, checkpoint: Path):
    wants = config(server={"gpus": 2})
    launched(monkeypatch, HEAD)
    head = Placement.of(wants, gpus=8)
    assert (head.ranks, head.trainer, head.server) == (14, (2, 3, 4, 5, 6, 7), (0, 1))
    assert "14 trainer ranks, 6 of them on this machine, on GPUs (2, " in str(head)
    launched(monkeypatch, SECOND)
    second = Placement.of(wants, gpus=8)
    assert (second.ranks, second.trainer, second.server) == (14, tuple(range(8)), ())
    for placed in (head, second):
        found = estimate(checkpoint, wants, placed)
        assert parts(found)["weights"] == 1024 * 2 / 14
        check_machine(wants, placed, found, Machine(8, 80 * GIB, 1000 * GIB))


def test_more_ranks_than_the_server_leaves_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, checkpoint: Path):
    wants = config(server={"gpus": 2})
    launched(monkeypatch, HEAD | {"LOCAL_WORLD_SIZE": "8"})
    placed = Placement.of(wants, gpus=8)
    with pytest.raises(RlError, match=r"8 ranks were started on this machine, which has 8 GPUs, 2 of them") as error:
        check_machine(wants, placed, estimate(checkpoint, wants, placed))
    assert "start 6 ranks here" in error.value.remedy
    elsewhere = config(server={"gpus": 2}, rollout={"base_url": "http://other:8000"})
    placed = Placement.of(elsewhere, gpus=8)
    check_machine(elsewhere, placed, estimate(checkpoint, elsewhere, placed), Machine(8, 80 * GIB, 1000 * GIB))


def test_a_cpu_machine_must_hold_its_own_ranks_only(monkeypatch: pytest.MonkeyPatch, checkpoint: Path):
    small = config()
    launched(monkeypatch, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "1"})
    first = Placement.of(small, gpus=0)
    found = estimate(checkpoint, small, first)
    # Shared memory is memory: two copies of the weights wait there for the server.
    whole = found.trainer.machine_total(1) + found.server.device_total + 2 * found.published + REWARD_PROCESS
    assert found.machine == whole
    check_machine(small, first, found, Machine(0, 0, whole + 1))
    with pytest.raises(RlError, match="GiB and has") as caught:
        check_machine(small, first, found, Machine(0, 0, whole - 1))
    assert "rollout.weight_folder" in caught.value.remedy
    on_disk = estimate(checkpoint, config(rollout={"weight_folder": "/somewhere"}), first)
    assert on_disk.machine == whole - 2 * found.published
    launched(monkeypatch, {"RANK": "1"})
    assert estimate(checkpoint, small, Placement.of(small, gpus=0)).machine == found.trainer.machine_total(1)


def test_an_error_proposes_settings_that_fit(checkpoint: Path):
    """A plan of 64 long rows a forward on one GPU, with a reference."""
    wide = config(data={"micro_batch": 64, "max_length": 4096}, algorithm={"kl_weight": 0.1})
    placed = Placement(1, (0,), (), 1)
    found = estimate(checkpoint, wide, placed)
    machine = Machine(1, found.trainer.device_total - 1000, 100 * GIB)
    with pytest.raises(RlError, match="each GPU of the trainer needs about") as caught:
        check_machine(wide, placed, found, machine, lambda other: estimate(checkpoint, other, placed))
    assert caught.value.remedy == "it fits with algorithm.kl_weight=0.0"


def test_prompts_are_as_long_as_the_data_makes_them(checkpoint: Path):
    placed = Placement(2, (), (), 1)
    short, long = (estimate(checkpoint, config(), placed, longest).trainer for longest in (64, 0))
    assert long.at("none")["activations"] == 4096 / 64 * short.at("none")["activations"]
