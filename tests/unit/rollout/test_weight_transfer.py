"""Which way weights take, what each replica is told, and that a peer that never comes holds nothing up."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_server import run
from safetensors.torch import save_file

from covt_model.latents.heads import save_head
from covt_rl.rl_recipe import RlConfig
from covt_rollout.rollout_errors import RolloutError, ServerUnreachableError
from covt_rollout.weights.weight_transfer import beside, init_bodies, own_address, stored, update_body, way

HERE, THERE = ["http://127.0.0.1:8000"], ["http://127.0.0.1:8000", "http://10.0.0.2:8000"]


def config(transfer: str = "auto", gpus: int = 0) -> RlConfig:
    return RlConfig.model_validate({"rollout": {"transfer": transfer}, "server": {"gpus": gpus}})


def test_nccl_is_taken_where_trainer_and_server_have_gpus_each(tmp_path: Path) -> None:
    assert way(config(gpus=1), "cuda", HERE, tmp_path) == "nccl"
    assert way(config(), "cuda", THERE, tmp_path) == "nccl"
    assert way(config(), "cuda", HERE, tmp_path) == "files", "they share a GPU, which NCCL can't join"
    assert way(config(), "cpu", THERE, tmp_path) == "files"
    assert way(config("files", gpus=1), "cuda", HERE, tmp_path) == "files"
    save_head(tmp_path, {"weight": torch.eye(4)})
    assert way(config(gpus=1), "cuda", HERE, tmp_path) == "files"


@pytest.mark.parametrize(("device", "reason"), [("cpu", "runs on cpu"), ("cuda", "shares the trainer's GPU")])
def test_nccl_that_can_t_be_is_refused(tmp_path: Path, device: str, reason: str) -> None:
    with pytest.raises(RolloutError, match=reason) as caught:
        way(config("nccl"), device, HERE, tmp_path)
    assert "files" in caught.value.remedy


def test_every_worker_has_a_rank_of_its_own() -> None:
    bodies = [body["init_info"] for body in init_bodies("10.0.0.1", 5000, [2, 1, 4])]
    ranks = [
        body["rank_offset"] + worker for body, count in zip(bodies, (2, 1, 4), strict=True) for worker in range(count)
    ]
    assert ranks == list(range(1, 8))
    assert {body["world_size"] for body in bodies} == {8}
    assert {(body["master_address"], body["master_port"]) for body in bodies} == {("10.0.0.1", 5000)}


def test_tensors_are_announced_as_they_are_sent(tmp_path: Path) -> None:
    save_file(
        {"b": torch.ones(2, 3, dtype=torch.bfloat16), "a": torch.zeros(4)}, tmp_path / "weights-00000.safetensors"
    )
    save_file({"c": torch.zeros(1, dtype=torch.float16)}, tmp_path / "weights-00001.safetensors")
    said = update_body(tmp_path)["update_info"]
    sent = list(stored(tmp_path))
    assert said["names"] == [name for name, _ in sent]
    assert said["shapes"] == [list(tensor.shape) for _, tensor in sent]
    assert [getattr(torch, name) for name in said["dtype_names"]] == [tensor.dtype for _, tensor in sent]


def test_both_ends_run_at_once() -> None:
    met = threading.Barrier(2, timeout=20)

    async def work() -> Any:
        return await beside(met.wait, asyncio.to_thread(met.wait))

    assert run(work()) in (0, 1)


def test_the_trainers_failure_is_told() -> None:
    def fail() -> None:
        raise RuntimeError("ncclUnhandledCudaError")

    with pytest.raises(ServerUnreachableError, match="ncclUnhandledCudaError"):
        run(beside(fail, asyncio.sleep(0)))


def test_a_refused_request_is_not_waited_for_by_a_thread_that_hangs() -> None:
    hanging = threading.Event()

    async def refuse() -> None:
        raise ServerUnreachableError("HTTP 500: Weight transfer not configured", "start it again")

    with pytest.raises(ServerUnreachableError, match="not configured"):
        run(beside(hanging.wait, refuse()))
    hanging.set()


def test_the_address_is_the_one_that_the_server_reaches() -> None:
    assert own_address("http://localhost:8000") == "127.0.0.1"
    assert own_address("http://[::1]:8000") == "127.0.0.1"
