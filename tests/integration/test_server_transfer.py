"""vLLM's weight transfer: our requests are vLLM's, and a server takes weights this way as it takes them from files."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.endpoints import transfer_group_bodies
from covt_rollout.rollout_errors import WeightPushError
from covt_rollout.server.nccl_group import BUCKET_BYTES, BUCKETS, Tensors, connect_nccl, send_nccl
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import LatentServer
from covt_rollout.weights.weight_files import ServedNames
from covt_rollout.weights.weight_sync import Publisher, push_weights
from covt_rollout.weights.weight_transfer import NcclLoader, describe_tensors, read_tensors

PROMPTS = [PromptRequest((5 + number, 9, 14, 21), group_id=str(number)) for number in range(8)]
GREEDY = Sampling(max_tokens=12, temperature=0)


@pytest.fixture(autouse=True)
def vllm_imports() -> Any:
    with warnings.catch_warnings():
        # Of torch.jit, on importing vLLM.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_the_requests_are_those_that_vllm_reads(tmp_path: Path) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

    save_file({"a": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "weights.safetensors")
    engine: Any = object.__new__(NCCLWeightTransferEngine)
    (body,) = transfer_group_bodies("127.0.0.1", 5000, [2], bucket_bytes=BUCKET_BYTES, buckets=BUCKETS)
    init = engine.parse_init_info(body["init_info"])
    assert (init.rank_offset, init.world_size, init.packed) == (1, 3, True)
    assert engine.parse_update_info(describe_tensors(tmp_path)["update_info"]).names == ["a"]


def test_vllms_own_functions_are_called_as_they_are_declared(tmp_path: Path) -> None:
    from vllm.distributed.weight_transfer import nccl_common, packed_tensor

    save_file({"a": torch.ones(4)}, tmp_path / "weights.safetensors")
    with (
        mock.patch.object(nccl_common, "stateless_init_process_group", autospec=True) as opened,
        mock.patch.object(nccl_common.torch.accelerator, "current_device_index", return_value=0),
    ):
        group: Any = connect_nccl("10.0.0.1", 5000, 3)
    assert opened.call_args.args == ("10.0.0.1", 5000, 0, 3, 0)
    group.device = torch.device("cpu")
    with mock.patch.object(packed_tensor, "packed_nccl_broadcast_producer", autospec=True) as sent:
        send_nccl(group, lambda: read_tensors(tmp_path))
    said = sent.call_args.kwargs
    ((name, tensor),) = said["iterator"]
    (body,) = transfer_group_bodies("10.0.0.1", 5000, [2], bucket_bytes=BUCKET_BYTES, buckets=BUCKETS)
    assert (name, said["post_iter_func"]((name, tensor)).tolist(), said["src"]) == ("a", [1.0] * 4, 0)
    assert said["buffer_size_bytes"] == body["init_info"]["packed_buffer_size_bytes"]
    assert said["num_buffers"] == body["init_info"]["packed_num_buffers"]
    group.destroy.assert_called_once_with()


async def logprobs(client: RolloutClient) -> list[tuple[float, ...]]:
    return [group[0].logprobs for group in await client.generate(PROMPTS, GREEDY)]


def test_a_server_without_the_engine_keeps_its_weights(latent_server) -> None:
    load = NcclLoader(connect=lambda *_: None, send=lambda *_: None)

    async def work() -> tuple[list[Any], list[Any]]:
        async with RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint) as client:
            version, before = await client.weight_version(), await logprobs(client)
            with pytest.raises(WeightPushError, match=f"version {version} stays.*init_weight_transfer_engine"):
                await push_weights(client, latent_server.checkpoint, 99, load=load)
            assert await client.weight_version() == version
            return before, await logprobs(client)

    before, after = asyncio.run(work())
    assert after == [pytest.approx(old, abs=1e-6) for old in before]


@pytest.mark.slow
def test_weights_arrive_as_they_do_from_files(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real server, whose tied output matrix is a packed copy; a store on TCP broadcasts in NCCL's place."""
    from vllm.distributed.utils import StatelessProcessGroup

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    groups: list[Any] = []

    def connect(address: str, port: int, size: int) -> Any:
        # Kept to the end: with the group goes the store that the workers read from.
        groups.append(StatelessProcessGroup.create(address, port, 0, size))
        return groups[-1]

    def send(group: Any, tensors: Tensors) -> None:
        for _, tensor in tensors():
            group.broadcast(tensor, src=0)

    def scaled(scale: float) -> list[tuple[str, torch.Tensor]]:
        return [(name, scale * tensor) for name, tensor in load_file(tiny_checkpoint / "model.safetensors").items()]

    async def work(url: str) -> tuple[list[Any], list[Any], list[Any], int]:
        async with RolloutClient.for_checkpoint(url, tiny_checkpoint) as client:
            names = ServedNames.read(tiny_checkpoint)
            first = await logprobs(client)
            with Publisher(client, names) as files:
                await files.publish(scaled(1.3), 1)
                from_files = await logprobs(client)
            with Publisher(client, names, load=NcclLoader(connect, send)) as sender:
                await sender.publish(scaled(1.0), 2)
                assert await logprobs(client) == first
                # A session that a trainer died in hinders the next one nowhere.
                await client.transport.call_each("POST", "/start_weight_update")
                await sender.publish(scaled(1.3), 3)
                return first, from_files, await logprobs(client), await client.weight_version()

    extra = ("--weight-transfer-config", '{"backend": "tcp"}', "--worker-cls", "tcp_transfer.TcpWorker")
    options = ServerOptions(max_model_len=512, kv_cache_bytes=64 * 2**20, extra=extra)
    with LatentServer.start(tiny_checkpoint, options=options, log_path=tmp_path / "vllm.log") as server:
        first, from_files, sent, version = asyncio.run(work(server.url))
    assert version == 3
    assert sent == from_files != first
