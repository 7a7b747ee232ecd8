"""The choice of a weight transport, what each replica is told, and peers that never come."""

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
from covt_rollout.endpoints import transfer_group_bodies
from covt_rollout.rollout_errors import RolloutError, ServerUnreachableError
from covt_rollout.weights.weight_transfer import (
    choose_weight_transport,
    describe_tensors,
    is_this_machine,
    local_address_for,
    read_tensors,
    run_beside_request,
)

HERE, THERE = ["http://127.0.0.1:8000"], ["http://127.0.0.1:8000", "http://10.0.0.2:8000"]


def choose(checkpoint: Path, wanted: Any = "auto", device: str = "cuda", urls: Any = HERE, **settings: Any) -> str:
    return choose_weight_transport(wanted, device, urls, checkpoint, **settings)


def test_nccl_is_taken_where_trainer_and_server_have_gpus_each(tmp_path: Path) -> None:
    assert choose(tmp_path, server_gpus=1) == "nccl"
    assert choose(tmp_path, urls=THERE) == "nccl"
    assert choose(tmp_path) == "files", "they share a GPU, which NCCL can't join"
    assert choose(tmp_path, urls=THERE, sleeps=True, weight_folder="/shared") == "files"
    assert choose(tmp_path, "http", server_gpus=1) == "http"
    assert choose(tmp_path, device="cpu", urls=THERE, weight_folder="/shared") == "files"
    assert choose(tmp_path, "files", server_gpus=1) == "files"
    save_head(tmp_path, {"weight": torch.eye(4)})
    assert choose(tmp_path, server_gpus=1) == "files"


@pytest.mark.parametrize(("device", "reason"), [("cpu", "runs on cpu"), ("cuda", "shares the trainer's GPU")])
def test_nccl_that_can_t_be_is_refused(tmp_path: Path, device: str, reason: str) -> None:
    with pytest.raises(RolloutError, match=reason) as caught:
        choose(tmp_path, "nccl", device)
    assert "files" in caught.value.remedy


@pytest.mark.parametrize("settings", [{"device": "cpu"}, {"sleeps": True}, {"wanted": "files"}])
@pytest.mark.parametrize("host", ["10.0.0.2", "no-such-host.invalid", "[2001:db8::1]"])
def test_a_server_on_another_machine_is_not_given_a_folder_of_this_one(
    tmp_path: Path, host: str, settings: dict[str, Any]
) -> None:
    urls = ["http://127.0.0.1:8000", f"http://{host}:8000"]
    assert choose(tmp_path, urls=urls, weight_folder="/shared", **settings) == "files"
    if "wanted" not in settings:
        assert choose(tmp_path, urls=urls, **settings) == "http"
        return
    with pytest.raises(RolloutError, match="is on another machine and can't read files in /dev/shm") as caught:
        choose(tmp_path, urls=urls, **settings)
    assert host in str(caught.value)
    assert "rollout.weight_folder" in caught.value.remedy and "rollout.transfer=http" in caught.value.remedy


def test_this_machine_s_own_addresses_are_not_another_machine() -> None:
    own = local_address_for("http://10.0.0.2:8000")
    for host in ("127.0.0.1", "127.0.3.4", "localhost", "::1", own):
        assert is_this_machine(host), host
    assert not is_this_machine("192.0.2.1")


def test_every_worker_has_a_rank_of_its_own() -> None:
    bodies = [
        body["init_info"] for body in transfer_group_bodies("10.0.0.1", 5000, [2, 1, 4], bucket_bytes=8, buckets=2)
    ]
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
    said = describe_tensors(tmp_path)["update_info"]
    sent = list(read_tensors(tmp_path))
    assert said["names"] == [name for name, _ in sent]
    assert said["shapes"] == [list(tensor.shape) for _, tensor in sent]
    assert [getattr(torch, name) for name in said["dtype_names"]] == [tensor.dtype for _, tensor in sent]


def test_both_ends_run_at_once() -> None:
    met = threading.Barrier(2, timeout=20)

    async def work() -> Any:
        return await run_beside_request(met.wait, asyncio.to_thread(met.wait))

    assert run(work()) in (0, 1)


def test_the_trainers_failure_is_told() -> None:
    def fail() -> None:
        raise RuntimeError("ncclUnhandledCudaError")

    with pytest.raises(ServerUnreachableError, match="ncclUnhandledCudaError"):
        run(run_beside_request(fail, asyncio.sleep(0)))


def test_a_refused_request_is_not_waited_for_by_a_thread_that_hangs() -> None:
    hanging = threading.Event()

    async def refuse() -> None:
        raise ServerUnreachableError("HTTP 500: Weight transfer not configured", "start it again")

    with pytest.raises(ServerUnreachableError, match="not configured"):
        run(run_beside_request(hanging.wait, refuse()))
    hanging.set()


def test_the_address_is_the_one_that_the_server_reaches() -> None:
    assert local_address_for("http://localhost:8000") == "127.0.0.1"
    assert local_address_for("http://[::1]:8000") == "127.0.0.1"
