"""Evaluation in every mode through the real server, with a model that begins latent spans by itself."""

from __future__ import annotations

import asyncio
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image as Pil
from safetensors.torch import load_file

from covt_data.schema import Image, Row
from covt_eval.evaluation.evaluate import evaluate
from covt_eval.evaluation.prompt_requests import build_request
from covt_model.encoding.encode import Encoder
from covt_model.latents.latent_modes import EVALUATION_MODES as MODES
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import Sampling
from covt_rollout.weights.weight_files import ServedNames
from covt_rollout.weights.weight_sync import publish

ROWS, MAX_TOKENS = 12, 24


def row(number: int) -> Row:
    pixels = np.random.default_rng(number).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pil.fromarray(pixels).save(buffer, "PNG")
    return Row(
        id=f"row{number}",
        source="test",
        split="test",
        question=f"<image>Which cell is reached after {number} steps?",
        images=[Image(bytes=buffer.getvalue())],
        answer="B3",
        grader="text",
    )


@pytest.fixture
def spans_begin(latent_server):
    """Weights under which the start marker is chosen where the most common first token was; put back at the end."""
    encoder = Encoder(latent_server.checkpoint)
    weights = load_file(latent_server.checkpoint / "model.safetensors")
    names = ServedNames.read(latent_server.checkpoint)

    async def push(begin: bool) -> None:
        async with RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint) as client:
            tensors = dict(weights)
            if begin:
                prompts = [build_request(encoder.encode_prompt(row(number)), row(number)) for number in range(ROWS)]
                first = await client.generate(prompts, Sampling(max_tokens=1, temperature=0))
                (token, _), *_ = Counter(group[0].token_ids[0] for group in first).most_common()
                embedding = weights["model.embed_tokens.weight"].clone()
                embedding[client.latent.start_id] = 1.5 * embedding[token]
                tensors["model.embed_tokens.weight"] = embedding
            await publish(client, tensors.items(), 0, names)

    asyncio.run(push(True))
    yield encoder
    asyncio.run(push(False))


def test_a_forced_start_opens_a_span_that_the_model_would_not(latent_server) -> None:
    encoder, rows = Encoder(latent_server.checkpoint), [row(number) for number in range(ROWS)]

    async def work():
        async with RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint, timeout=120) as client:
            free = await evaluate(client, encoder, rows, max_tokens=MAX_TOKENS)
            forced = await evaluate(
                client, encoder, rows, ("keep", "zeros", "drop_latents"), max_tokens=MAX_TOKENS, force_start=True
            )
            return client.latent, free["keep"], forced

    latent, free, forced = asyncio.run(work())
    assert not any(one.latent_spans[:1] == ((1, 1 + latent.size),) for one in free)
    begin = (latent.start_id, *[latent.pad_id] * latent.size, latent.end_id)
    for mode in ("keep", "zeros"):
        assert all(one.token_ids[: len(begin)] == begin and len(one.token_ids) <= MAX_TOKENS for one in forced[mode])
    assert any(a.token_ids != b.token_ids for a, b in zip(forced["keep"], forced["zeros"], strict=True))
    assert all(one.token_ids[:2] == (latent.start_id, latent.end_id) for one in forced["drop_latents"])


def test_every_mode_answers_and_only_the_latents_differ(latent_server, spans_begin) -> None:
    rows = [row(number) for number in range(ROWS)]

    async def work():
        async with RolloutClient.for_checkpoint(latent_server.url, latent_server.checkpoint, timeout=120) as client:
            modes = await evaluate(client, spans_begin, rows, MODES, max_tokens=MAX_TOKENS)
            again = await evaluate(client, spans_begin, rows, ("zeros", "shuffle"), max_tokens=MAX_TOKENS)
            return client.latent, modes, again

    latent, results, again = asyncio.run(work())
    assert set(results) == set(MODES)
    kept = results["keep"]
    using = [
        index for index, one in enumerate(kept) if any(end - start == latent.size for start, end in one.latent_spans)
    ]
    assert len(using) >= 3, "too few rows began a span to test anything"
    for mode, answers in results.items():
        assert [one.id for one in answers] == [one.id for one in rows]
        assert all(len(one.token_ids) <= MAX_TOKENS for one in answers)
        for index, (one, keep) in enumerate(zip(answers, kept, strict=True)):
            if index not in using:
                assert one.token_ids == keep.token_ids, "a row without latents has nothing to ablate"
                continue
            start = keep.latent_spans[0][0]
            assert one.token_ids[: start - 1] == keep.token_ids[: start - 1]
            if mode.startswith("drop"):
                assert latent.pad_id not in one.token_ids[: len(one.token_ids) - latent.size]
            else:
                assert one.latent_spans[0] == keep.latent_spans[0]
        if mode != "keep":
            assert any(answers[index].token_ids != kept[index].token_ids for index in using), f"{mode} changed nothing"
    for mode, answers in again.items():
        assert [one.token_ids for one in answers] == [one.token_ids for one in results[mode]], f"{mode} doesn't repeat"
