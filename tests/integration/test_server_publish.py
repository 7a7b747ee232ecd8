"""Weight pushes into the real server: all of a completion from one version, a failed push changes nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from covt_rollout import endpoints
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.rollout_errors import StaleWeightsError, WeightPushError
from covt_rollout.server.weight_root import PREFIX, SHARED_MEMORY
from covt_rollout.weights.http_loader import load_over_http
from covt_rollout.weights.weight_files import ServedNames
from covt_rollout.weights.weight_sync import Publisher, publish, push_weights

PROMPTS = [PromptRequest((5 + number, 9, 14, 21), group_id=str(number)) for number in range(8)]
GREEDY = Sampling(max_tokens=6, temperature=0)


def client_of(latent_server, **settings) -> RolloutClient:
    return RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint, timeout=120, **settings)


def parameters(checkpoint: Path, scale: float = 1.0) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors under a trainer's parameter names, those of the language model scaled."""
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        if name.startswith("visual."):
            yield f"model.{name}", tensor
        else:
            yield name.replace("model.", "model.language_model.", 1), tensor * scale


@pytest.fixture
def original_weights(latent_server) -> Iterator[None]:
    yield

    async def put_back() -> None:
        async with client_of(latent_server) as client:
            await publish(client, parameters(latent_server.checkpoint), 0, ServedNames.read(latent_server.checkpoint))

    asyncio.run(put_back())


async def logprobs(client: RolloutClient) -> list[tuple[float, ...]]:
    return [group[0].logprobs for group in await client.generate(PROMPTS, GREEDY)]


def test_pushed_weights_answer_and_the_old_ones_come_back(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint)
        async with client_of(latent_server) as client:
            before = await logprobs(client)
            report = await publish(client, parameters(latent_server.checkpoint, 1.3), 7, names)
            assert await client.weight_version() == 7
            changed = await logprobs(client)
            versions = {group[0].weight_version for group in await client.generate(PROMPTS, GREEDY)}
            await publish(client, parameters(latent_server.checkpoint), 8, names)
            return report, before, changed, versions, await logprobs(client)

    report, before, changed, versions, after = asyncio.run(work())
    assert (report.version, report.tensors) == (7, len(load_file(latent_server.checkpoint / "model.safetensors")))
    assert versions == {7}
    assert all(new != pytest.approx(old, abs=1e-3) for new, old in zip(changed, before, strict=True))
    assert all(new == pytest.approx(old, abs=1e-5) for new, old in zip(after, before, strict=True))
    assert not list(SHARED_MEMORY.glob(f"{PREFIX}{os.getpid()}@*"))


def test_a_trainer_with_frozen_vision_publishes_the_rest(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint).without_vision()
        tensors = [pair for pair in parameters(latent_server.checkpoint, 1.3) if ".visual." not in pair[0]]
        async with client_of(latent_server) as client:
            before = await logprobs(client)
            report = await publish(client, tensors, 5, names)
            return len(tensors), report, before, await logprobs(client), await client.weight_version()

    count, report, before, changed, version = asyncio.run(work())
    assert (report.tensors, version) == (count, 5)
    assert all(new != pytest.approx(old, abs=1e-3) for new, old in zip(changed, before, strict=True))


def test_restored_weights_answer_after_the_server_has_lost_them(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint)
        async with client_of(latent_server) as client:
            with Publisher(client, names) as publisher:
                await publisher.publish(parameters(latent_server.checkpoint, 1.3), 7)
                pushed = await logprobs(client)
                # What a server that was started again has: the checkpoint's weights, another version.
                client.version = None
                await publish(client, parameters(latent_server.checkpoint), 0, names)
                client.version = 7
                client.transport.on_down = publisher.restore
                return pushed, await logprobs(client), await client.weight_version()

    pushed, again, version = asyncio.run(work())
    assert version == 7
    assert all(new == pytest.approx(old, abs=1e-6) for new, old in zip(again, pushed, strict=True))
    assert not list(SHARED_MEMORY.glob(f"{PREFIX}{os.getpid()}@*"))


def test_a_push_in_the_middle_leaves_no_completion_behind_and_none_mixed(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint)
        async with client_of(latent_server) as client:
            some_done = asyncio.Event()
            prompts, sampling = PROMPTS * 8, [Sampling(max_tokens=4, n=2)] * 4 + [Sampling(max_tokens=400, n=2)] * 60
            work = client.generate(prompts, sampling, on_done=lambda _done: some_done.set())
            running = asyncio.create_task(work)
            await some_done.wait()
            assert not running.done(), "the requests were over before the push: make them longer"
            await publish(client, parameters(latent_server.checkpoint, 1.1), 3, names)
            return await running

    groups = asyncio.run(work())
    assert len(groups) == 64
    assert all(len(group) == 2 for group in groups)
    # The short requests were over before the push; all that it cut short were sampled again.
    versions = [[one.weight_version for one in group] for group in groups]
    assert versions[:4].count([0, 0]) > 0
    assert [3, 3] in versions
    assert all(pair in ([0, 0], [3, 3]) for pair in versions)
    assert {one.finish_reason for group in groups for one in group} <= {"stop", "length"}


def test_a_refused_push_leaves_the_old_version_answering(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint)
        async with client_of(latent_server) as client:
            version, before = await client.weight_version(), await logprobs(client)
            wrong = ((name, torch.zeros(3)) for name, _ in parameters(latent_server.checkpoint))
            with pytest.raises(WeightPushError, match=f"version {version} stays.*other shapes"):
                await publish(client, wrong, 99, names)
            assert await client.weight_version() == version
            return before, await logprobs(client)

    before, after = asyncio.run(work())
    assert after == [pytest.approx(old, abs=1e-6) for old in before]


def test_answers_of_other_weights_than_the_trainers_are_refused(latent_server) -> None:
    async def work():
        async with client_of(latent_server, version=41) as client:
            await client.generate(PROMPTS, GREEDY)

    with pytest.raises(StaleWeightsError, match="trainer is at 41"):
        asyncio.run(work())


def test_weights_over_http_are_those_of_the_files(latent_server, original_weights) -> None:
    async def work():
        names = ServedNames.read(latent_server.checkpoint)
        async with client_of(latent_server) as client:
            await publish(client, parameters(latent_server.checkpoint, 1.3), 11, names)
            from_files = await logprobs(client)
            with Publisher(client, names, load=load_over_http) as publisher:
                await publisher.publish(parameters(latent_server.checkpoint), 12)
                before = await logprobs(client)
                await publisher.publish(parameters(latent_server.checkpoint, 1.3), 13)
                assert await client.weight_version() == 13
                # A server refuses weights of another model before it changes any, as it does with files.
                assert publisher._newest is not None
                folder = publisher._newest[0]
                save_file({"stranger": torch.ones(1)}, folder / "weights-99999.safetensors")
                with pytest.raises(WeightPushError, match=r"version 13 stays.*unknown 1 tensors"):
                    await push_weights(client, folder, 14, load=load_over_http)
                return from_files, before, await logprobs(client)

    from_files, before, after = asyncio.run(work())
    assert after == from_files != before
    assert not list(SHARED_MEMORY.glob(f"{PREFIX}{os.getpid()}@*"))


def test_a_server_says_what_it_sees_and_reaches(latent_server, tmp_path: Path) -> None:
    """Through vLLM's own endpoint, which turns the plainest answers into text."""
    (tmp_path / "file").write_text("text")

    async def work():
        async with client_of(latent_server) as client:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                reached = await endpoints.reach_address(client.transport, "127.0.0.1", port)
            gone = await endpoints.reach_address(client.transport, "127.0.0.1", port)
            seen = [
                await endpoints.see_file(client.transport, str(tmp_path / "file"), text) for text in ("text", "tex")
            ]
            return reached, gone, seen

    assert asyncio.run(work()) == ([True], [False], [[True], [False]])
