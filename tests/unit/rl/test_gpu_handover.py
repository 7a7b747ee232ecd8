"""Trainer and server by turns on the same GPUs: what is told to the server, in which order, and what is refused."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest
from recording_server import Recorder, with_server

from covt_rl.planning.memory_plan import MemoryPlan, check_machine
from covt_rl.planning.placement import Placement
from covt_rl.rl_errors import RlError
from covt_rl.rl_recipe import RlConfig
from covt_rl.training.gpu_handover import GpuHandover, check_sleep_mode, first_sleep, sleep_replicas, turn_event, waking
from covt_rl.training.train import handle_event
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.rollout_errors import ServerError, StaleWeightsError
from covt_rollout.server.server_options import ServerOptions, require_vllm, server_command
from covt_rollout.server.watchdog import ServerWatchdog
from covt_rollout.weights.weight_sync import load_weight_files, push_weights
from covt_rollout.weights.weight_transfer import choose_weight_transport
from covt_runtime.engine.memory_estimate import MemoryEstimate

ASLEEP = "/update_weight_version asleep"


def test_a_push_wakes_the_weights_memory_before_and_the_caches_after_the_load(tmp_path: Path):
    servers = [Recorder(), Recorder()]
    with_server(servers, lambda client: push_weights(client, tmp_path, 3, load=waking(load_weight_files)))
    assert all(
        server.calls
        == [
            "/weight_info",
            "/pause abort",
            "/update_weight_version loading 3",
            "/wake_up weights",
            # A server that was awake has been told to go on by now.
            "/pause abort",
            "covt_load_weights",
            "/wake_up kv_cache",
            "/update_weight_version 3",
            "/resume",
        ]
        for server in servers
    )


def test_a_sleeping_server_serves_no_version(tmp_path: Path):
    server = Recorder("4", 4)

    async def work(client: RolloutClient) -> None:
        await sleep_replicas(client)
        with pytest.raises(StaleWeightsError, match="asleep"):
            await client.weight_version()

    with_server(server, work)
    assert server.calls[:2] == ["/sleep 2 abort", ASLEEP]


def test_a_server_that_can_t_be_laid_down_is_brought_back_first():
    server = Recorder(fails="/sleep")

    async def work(client: RolloutClient) -> None:
        async def mend() -> None:
            server.fails = ""
            server.calls.append("back")

        client.transport.on_down = mend
        await sleep_replicas(client)

    with_server(server, work)
    assert server.calls == ["/sleep 2 abort", "back", "/sleep 2 abort", ASLEEP]
    with pytest.raises(ServerError):
        with_server(Recorder(fails="/sleep"), sleep_replicas)


def test_a_server_without_sleep_mode_or_that_sleeps_already_is_refused():
    awake, unable = Recorder(), Recorder()
    unable.sleep_mode = False
    with pytest.raises(RlError, match="was started without sleep mode") as caught:
        with_server([awake, unable], check_sleep_mode)
    assert "covt serve CKPT --sleep" in caught.value.remedy
    awake.sleeping = True
    with pytest.raises(RlError, match="sleeps: another training has it"):
        with_server(awake, first_sleep)
    assert not any(call.startswith("/sleep") for call in awake.calls + unable.calls)


class Held:
    """What a rank holds; records what is asked of it."""

    def __init__(self, told: list[str]) -> None:
        self.told = told

    def offload(self) -> None:
        self.told.append("offload")

    def reload(self) -> None:
        self.told.append("reload")


def test_no_rank_comes_back_before_the_server_sleeps_and_none_wakes_it_before_all_have_left():
    server, told = Recorder(), list[str]()
    server.calls = told

    def turn(client: RolloutClient) -> None:
        with BlockingClient(client) as blocking:
            turns = GpuHandover(
                Held(told), blocking, lambda: told.append("barrier"), lambda e: told.append(e["holder"])
            )
            turns.to_trainer()
            turns.to_server()
            turns.to_server()
            turns.to_trainer()

    async def work(client: RolloutClient) -> None:
        urls = [replica.url for replica in client.transport.replicas]
        await asyncio.to_thread(turn, RolloutClient(urls, latent=client.latent, decode=str))

    with_server(server, work)
    assert told == ["offload", "barrier", "server", "/sleep 2 abort", ASLEEP, "trainer", "barrier", "reload"]


def test_other_ranks_leave_and_come_back_and_tell_the_server_nothing():
    told: list[str] = []
    turns = GpuHandover(Held(told), None, lambda: told.append("barrier"), lambda event: told.append("told"))
    turns.to_server()
    turns.to_trainer()
    assert told == ["offload", "barrier", "barrier", "reload"]


class DeadServer:
    """A server that has died, and counts how often it is started."""

    pid: int | None = None
    starts = 0

    def restart(self, abandon: Any) -> None:
        self.starts += 1
        self.pid = 1

    def responds(self, timeout: float) -> bool:
        return True


class NothingShown:
    def handle(self, event: Any) -> None:
        raise AssertionError("a turn is nothing to show")


def test_a_server_that_died_asleep_is_started_when_its_turn_comes():
    server, progress = DeadServer(), NothingShown()
    watch = ServerWatchdog(cast(Any, server), interval=0.01)
    handle_event([watch], cast(Any, progress), turn_event("trainer"))
    with watch:
        time.sleep(0.2)
        assert server.starts == 0
        handle_event([watch], cast(Any, progress), turn_event("server"))
        end = time.monotonic() + 30
        while not server.starts and time.monotonic() < end:
            time.sleep(0.01)
    assert server.starts == 1


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"server": {"sleep": True, "gpus": 2}}, r"server.gpus = 2: a server with GPUs of its own"),
        ({"server": {"sleep": True}, "rollout": {"ahead": 1}}, r"rollout.ahead = 1: the server can't sample"),
        ({"server": {"sleep": True}, "rollout": {"transfer": "nccl"}}, r"rollout.transfer = 'nccl'"),
    ],
)
def test_what_doesn_t_go_with_turns_is_refused(sections: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        RlConfig.model_validate(sections)


def test_a_machine_without_gpus_is_refused_and_the_plan_says_so():
    config = RlConfig.model_validate({"server": {"sleep": True}})
    placed = Placement.of(config, gpus=0)
    assert "server.sleep needs a GPU" in str(placed)
    with pytest.raises(RlError, match="no GPU to share"):
        check_machine(config, placed, MemoryPlan(MemoryEstimate(()), MemoryEstimate(())))


@pytest.mark.skipif(require_vllm() != "cpu", reason="of vLLM's CPU build")
def test_a_cpu_server_is_not_started_with_sleep_mode(tmp_path: Path):
    with pytest.raises(ServerError, match="no sleep mode"):
        server_command(tmp_path, "127.0.0.1", 1, ServerOptions(sleep=True))


def test_the_servers_go_on_all_of_the_trainers_gpus_and_are_given_files(tmp_path: Path):
    config = RlConfig.model_validate({"server": {"sleep": True, "tensor_parallel": 2}})
    placed = Placement.of(config, gpus=4)
    assert (placed.trainer, placed.server, placed.replicas) == ((0, 1, 2, 3), (), 2)
    assert str(placed) == "4 trainer ranks and 2 servers on GPUs (0, 1, 2, 3) in turn"
    assert choose_weight_transport("auto", "cuda", ["http://127.0.0.1:8000"], tmp_path, sleeps=True) == "files"
