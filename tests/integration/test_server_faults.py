"""The real server, killed and stopped in the middle of generation and of pushes."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.rollout_errors import WeightPushError
from covt_rollout.server import supervisor
from covt_rollout.server.server_options import ServerOptions
from covt_rollout.server.server_process import LatentServer
from covt_rollout.server.watchdog import ServerWatchdog
from covt_rollout.weights.weight_files import ServedNames
from covt_rollout.weights.weight_sync import Publisher

pytestmark = pytest.mark.slow

PROMPTS = [PromptRequest((5 + number, 9, 14, 21), group_id=str(number)) for number in range(32)]
LONG = Sampling(max_tokens=300, n=2, seed=3)
# Seconds that an answer may take, on a slow machine too: what hangs is ended by the watch, not by the client.
ANSWER = 300


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    options = ServerOptions(max_model_len=512, kv_cache_bytes=64 * 2**20)
    log = tmp_path_factory.mktemp("faults") / "vllm.log"
    with LatentServer.start(tiny_checkpoint, options=options, log_path=log) as server:
        yield server


def tensors(checkpoint: Path, scale: float) -> list[tuple[str, torch.Tensor]]:
    return [(name, scale * tensor) for name, tensor in load_file(checkpoint / "model.safetensors").items()]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("whom", ["api server", "engine"])
def test_every_prompt_is_answered_once_with_the_right_weights(server: LatentServer, sent, whom) -> None:
    notes: list[str] = []

    async def work():
        client = RolloutClient.for_checkpoint(server.url, server.checkpoint, timeout=ANSWER, attempts=3)
        async with client:
            with Publisher(client, ServedNames.read(server.checkpoint)) as publisher:
                client.transport.on_down = publisher.restore
                await publisher.publish(tensors(server.checkpoint, 1.2), 9)
                expected = await client.generate(PROMPTS, LONG)
                running = asyncio.create_task(client.generate(PROMPTS, LONG))
                await asyncio.sleep(0.2)
                assert server.pid is not None
                below = supervisor.descendants(server.pid)
                os.kill(below[0] if whom == "api server" else below[-1], sent)
                return expected, await running

    with ServerWatchdog(server, interval=0.5, patience=10, limit=50, on_note=notes.append) as watch:
        expected, answered = asyncio.run(work())
    # A busy machine may let the watch find a slow server hanging, which starts it once more than needed.
    assert watch.restarts >= 1, notes
    assert [[one.token_ids for one in group] for group in answered] == [
        [one.token_ids for one in group] for group in expected
    ]
    assert {one.weight_version for group in answered for one in group} == {9}


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_random_faults_lose_nothing_and_leave_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Two moments a seed; `benchmarks/faults.py` does more."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import faults

    rng = random.Random(seed)
    drawn = [faults.Fault.draw(rng) for _ in range(2)]
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    counts = faults.run(checkpoint, drawn, tmp_path / "vllm.log", print)
    assert counts.rounds == 2
    assert counts.clean, counts


def test_a_push_to_a_dying_server_fails_and_the_next_one_succeeds(server: LatentServer) -> None:
    async def work():
        client = RolloutClient.for_checkpoint(server.url, server.checkpoint, timeout=ANSWER, attempts=2)
        async with client:
            with Publisher(client, ServedNames.read(server.checkpoint)) as publisher:
                assert server.pid is not None
                os.kill(supervisor.descendants(server.pid)[0], signal.SIGKILL)
                with pytest.raises(WeightPushError):
                    await publisher.publish(tensors(server.checkpoint, 1.1), 21)
                await asyncio.to_thread(server.restart)
                await publisher.publish(tensors(server.checkpoint, 1.1), 22)
                return {group[0].weight_version for group in await client.generate(PROMPTS, LONG)}

    assert asyncio.run(work()) == {22}


def test_nothing_is_left_of_a_stopped_server(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with LatentServer.start(tiny_checkpoint, log_path=tmp_path / "log") as server:
        assert server.pid is not None
        pids = [server.pid, *supervisor.descendants(server.pid)]
        assert len(pids) >= 3
    begun = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() - begun < 60
        time.sleep(0.05)
