"""The client against the real server: completions, latents, counterfactual continuations."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import CONTINUATION_MODES as MODES
from covt_rewards.latents import find_pad_runs
from covt_rollout.branches.continuations import continue_from
from covt_rollout.client.blocking_client import BlockingClient
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import LatentInput, PromptRequest, Sampling
from covt_rollout.rollout_errors import ServerRefusedError

MAX_TOKENS = 16


def picture(seed: int, size: tuple[int, int] = (56, 84)) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def prompts(latent_server) -> list[PromptRequest]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(latent_server.checkpoint / "tokenizer.json"))
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which cell? {}<|im_end|>\n<|im_start|>assistant\n"
    )
    return [
        PromptRequest(
            tuple(tokenizer.encode(text.format(number), add_special_tokens=False).ids), (picture(number),), f"p{number}"
        )
        for number in range(6)
    ]


def on_server(latent_server, work: Callable[[RolloutClient], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint, timeout=120) as client:
            return await work(client)

    return asyncio.run(main())


async def with_span(
    client: RolloutClient, prompts: list[PromptRequest], sampling: Sampling
) -> list[tuple[Completion, np.ndarray]]:
    """Completions that begin with a latent span, with their latents.

    A random model hardly ever begins a span by itself, so the start marker is given to it.
    """
    start = client.latent.start_id
    given = [replace(prompt, ids=(*prompt.ids, start)) for prompt in prompts]
    groups = await client.generate(given, replace(sampling, max_tokens=sampling.max_tokens - 1), hold_latents=True)
    found = [group[0] for group in groups]
    latents = await client.take_latents(found)
    completions = [
        replace(
            one,
            prompt_ids=one.prompt_ids[:-1],
            token_ids=(start, *one.token_ids),
            logprobs=(0.0, *one.logprobs),
            latent_spans=find_pad_runs((start, *one.token_ids), client.latent.pad_id),
        )
        for one in found
    ]
    assert all(rows is not None for rows in latents)
    return [(one, rows) for one, rows in zip(completions, latents, strict=True) if rows is not None]


def test_samples_of_a_prompt_share_it_and_differ(latent_server, prompts) -> None:
    sampling = Sampling(max_tokens=MAX_TOKENS, n=4, seed=5)

    async def work(client: RolloutClient):
        return await client.weight_version(), await client.generate(prompts, sampling)

    version, groups = on_server(latent_server, work)
    assert [group[0].group_id for group in groups] == [prompt.group_id for prompt in prompts]
    for group in groups:
        assert [one.sample_index for one in group] == [0, 1, 2, 3]
        assert len({one.prompt_ids for one in group}) == 1
        assert len({one.token_ids for one in group}) > 1
        for one in group:
            assert len(one.logprobs) == len(one.token_ids) > 0
            assert all(value <= 0 for value in one.logprobs)
            assert one.weight_version == version
    # 56 × 84 pixels are 2 × 3 visual tokens, in the place of one.
    assert len(groups[0][0].prompt_ids) == len(prompts[0].ids) + 5


def test_a_seed_repeats_samples_and_another_does_not(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        return [await client.generate(prompts, Sampling(max_tokens=8, n=2, seed=seed)) for seed in (1, 1, 2)]

    runs = [[[one.token_ids for one in group] for group in groups] for groups in on_server(latent_server, work)]
    first, again, other = runs
    assert first == again
    assert first != other


def test_latents_come_back_once_and_belong_to_their_sample(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        given = [replace(prompt, ids=(*prompt.ids, client.latent.start_id)) for prompt in prompts[:2]]
        groups = await client.generate(given, Sampling(max_tokens=8, n=2, seed=1), hold_latents=True)
        flat = [one for group in groups for one in group]
        return client.latent.size, await client.take_latents(flat), await client.take_latents(flat)

    size, latents, again = on_server(latent_server, work)
    assert [rows.shape for rows in latents] == [(size, 64)] * 4
    assert np.allclose(latents[0], latents[1], atol=1e-5), "the same prompt has the same first latents"
    assert not np.allclose(latents[0], latents[2], atol=1e-2)
    assert again == [None] * 4


def test_keeping_the_latents_repeats_the_parent(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0)
        parents = await with_span(client, prompts, sampling)
        completions, own = [one for one, _ in parents], [rows for _, rows in parents]
        return completions, await continue_from(client, prompts, completions, "keep", sampling, own=own)

    parents, continued = on_server(latent_server, work)
    for parent, (again,) in zip(parents, continued, strict=True):
        assert again.token_ids == parent.token_ids
        assert again.prompt_ids == parent.prompt_ids
        assert again.latent_spans == parent.latent_spans == ((1, 5),)
        assert again.parent == parent.sample_index
        assert np.allclose(again.logprobs, parent.logprobs, atol=1e-4)


def test_every_ablation_changes_what_follows_within_the_same_budget(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        sampling = Sampling(max_tokens=MAX_TOKENS, temperature=0)
        parents = await with_span(client, prompts, sampling)
        completions, own = [one for one, _ in parents], [rows for _, rows in parents]
        foreign = own[1:] + own[:1]
        results = {
            mode: await continue_from(client, prompts, completions, mode, sampling, own=own, foreign=foreign)
            for mode in MODES
        }
        return client.latent, completions, results

    latent, parents, results = on_server(latent_server, work)
    pads = {"drop_latents": 0, "drop_span": 0}
    for mode, continued in results.items():
        for (one,) in continued:
            assert one.mode == mode
            assert one.token_ids[:6].count(latent.pad_id) == pads.get(mode, latent.size)
            removed = latent.size - pads.get(mode, latent.size) + (2 if mode == "drop_span" else 0)
            assert len(one.token_ids) + removed <= MAX_TOKENS
            assert len(one.logprobs) == len(one.token_ids)
        if mode != "keep":
            after = 6 - latent.size - (2 if mode == "drop_span" else 0) if mode in pads else 6
            changed = [
                not np.allclose(one.logprobs[after : after + 1], parent.logprobs[6:7], atol=1e-3)
                for parent, (one,) in zip(parents, continued, strict=True)
            ]
            assert all(changed), f"{mode} left the distribution after the span as it was"


def test_a_completion_without_latents_has_no_continuations(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        sampling = Sampling(max_tokens=4, temperature=0)
        plain = [group[0] for group in await client.generate(prompts[:2], sampling)]
        return plain, await continue_from(client, prompts[:2], plain, "drop_latents", sampling)

    plain, continued = on_server(latent_server, work)
    assert all(not one.latent_spans for one in plain)
    assert continued == [[], []]


def test_zeros_for_a_whole_request_differ_from_its_own_latents(latent_server, prompts) -> None:
    async def work(client: RolloutClient):
        given = [replace(prompts[0], ids=(*prompts[0].ids, client.latent.start_id))]
        sampling = Sampling(max_tokens=12, temperature=0)
        return [await client.generate(given, sampling, inputs=LatentInput(mode=mode)) for mode in ("keep", "zeros")]

    (kept,), (zeroed,) = (groups[0] for groups in on_server(latent_server, work))
    assert zeroed.mode == "zeros"
    assert kept.token_ids[:5] == zeroed.token_ids[:5]
    assert kept.logprobs[5] != pytest.approx(zeroed.logprobs[5], abs=1e-3)


def test_a_wrong_request_is_refused_with_the_servers_words(latent_server, prompts) -> None:
    prompt = replace(prompts[0], images=())
    with pytest.raises(ServerRefusedError, match="1 image pads for 0 images"):
        on_server(latent_server, lambda client: client.generate([prompt], Sampling(max_tokens=4)))


def test_blocking_client_runs_from_plain_code(latent_server, prompts) -> None:
    with BlockingClient(RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint)) as blocking:
        for _ in range(2):
            groups = blocking.run(blocking.client.generate(prompts[:1], Sampling(max_tokens=4, temperature=0)))
            assert len(groups[0][0].token_ids) <= 4
    assert LatentConfig.read(latent_server.checkpoint) == blocking.client.latent
