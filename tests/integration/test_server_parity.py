"""The vLLM server decodes what stock Transformers decodes: token ids, log-probabilities and latents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from family_params import every_family
from latent_oracle import Oracle, png
from server_tools import (
    BATCHED_TOKENS,
    STEPS,
    TOLERANCE,
    Answer,
    RunningServer,
    assert_same,
    both_runners,
    generate,
    latents_of,
    prompt,
)

from covt_model.latents.feedback import noise
from covt_rollout.vllm_plugin import cache_salt, latent_args

pytestmark = [every_family, both_runners]


@pytest.fixture(scope="module")
def oracle(latent_server: RunningServer) -> Oracle:
    return Oracle(latent_server.checkpoint)


@pytest.fixture(scope="module")
def bias(oracle: Oracle) -> dict[int, float]:
    """Makes an untrained model start latent spans now and then."""
    return {oracle.latent.start_id: 2.5}


def spans(token_ids: list[int], pad: int) -> int:
    """Number of runs of pads."""
    return sum(token == pad and (t == 0 or token_ids[t - 1] != pad) for t, token in enumerate(token_ids))


def test_greedy_token_ids_logprobs_and_latents_equal_the_reference(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    expected = oracle.decode(ids, [image], steps=STEPS, bias=bias)
    (answer,) = generate(latent_server, ids, (image,), bias=bias, extra=latent_args(key="greedy"))
    assert_same(answer, expected)
    (latents,) = latents_of(latent_server, "greedy")
    assert latents.shape == (len(expected.latents), oracle.model.config.text_config.hidden_size)
    assert np.allclose(latents, torch.stack(expected.latents), atol=1e-4)


def test_a_span_is_k_pads_and_an_end_and_several_spans_occur(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    latent = oracle.latent
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    (answer,) = generate(latent_server, ids, (image,), bias=bias, max_tokens=40)
    assert answer.token_ids[: latent.size + 1] == [latent.pad_id] * latent.size + [latent.end_id]
    assert answer.logprobs[: latent.size + 1] == [0.0] * (latent.size + 1)
    assert spans(answer.token_ids, latent.pad_id) >= 2
    assert answer.token_ids[latent.size + 1 :].count(latent.start_id) >= 1


def test_pads_and_ends_are_never_sampled_outside_a_span(latent_server: RunningServer, oracle: Oracle) -> None:
    latent = oracle.latent
    pushed = {latent.pad_id: 50.0, latent.end_id: 50.0, latent.start_id: -100.0}
    ids = prompt(latent_server.checkpoint, "Follow", pictures=0)
    (answer,) = generate(latent_server, ids, bias=pushed, temperature=1.0, seed=0)
    assert not {latent.pad_id, latent.end_id} & set(answer.token_ids)


@pytest.mark.parametrize("sizes", [[(56, 84)], [(140, 112)], [(112, 112), (28, 56)], [(84, 84), (56, 56), (112, 28)]])
def test_pictures_of_different_sizes_and_numbers(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float], sizes: list[tuple[int, int]]
) -> None:
    images = tuple(png(height, width, seed) for seed, (height, width) in enumerate(sizes))
    ids = prompt(latent_server.checkpoint, "Which cell?", pictures=len(sizes), start=True)
    (answer,) = generate(latent_server, ids, images, bias=bias)
    assert_same(answer, oracle.decode(ids, images, steps=STEPS, bias=bias))


def test_sampled_tokens_have_the_logprobs_of_a_forced_scoring(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    ids, image = prompt(latent_server.checkpoint, "Which cell?", start=True), png(112, 112, 1)
    sampled = generate(latent_server, ids, (image,), bias=bias, temperature=0.7, seed=11, n=4)
    assert len({tuple(one.token_ids) for one in sampled}) > 1
    for answer in sampled:
        scored = oracle.decode(ids, [image], forced=answer.token_ids, temperature=0.7, bias=bias)
        assert_same(answer, scored)


def test_the_same_seed_gives_the_same_sample(latent_server: RunningServer, bias: dict[int, float]) -> None:
    ids = prompt(latent_server.checkpoint, "Again", pictures=0)
    first, second, other = (
        generate(latent_server, ids, bias=bias, temperature=1.0, seed=seed)[0].token_ids for seed in (5, 5, 6)
    )
    assert first == second != other


def test_each_choice_has_its_own_latents(latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]) -> None:
    ids, image = prompt(latent_server.checkpoint, "Which cell?", start=False), png(112, 112, 1)
    answers = generate(
        latent_server, ids, (image,), bias=bias, temperature=1.0, seed=2, n=3, extra=latent_args(key="choices")
    )
    for answer, latents in zip(answers, latents_of(latent_server, "choices"), strict=True):
        scored = oracle.decode(ids, [image], forced=answer.token_ids, bias=bias)
        assert len(latents) == answer.token_ids.count(oracle.latent.pad_id) == len(scored.latents)
        if len(latents):
            assert np.allclose(latents, torch.stack(scored.latents), atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "given", "none", "noise"])
def test_modes_replace_the_latents(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float], mode: str
) -> None:
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    other = oracle.decode(ids, [png(112, 112, 7)], steps=STEPS, bias=bias)
    data = torch.stack(other.latents).numpy() if mode == "given" else None
    (answer,) = generate(
        latent_server,
        ids,
        (image,),
        bias=bias,
        extra=latent_args(mode, data, key=mode, seed=4),
        salt=cache_salt(mode, data, seed=4),
    )
    fed = torch.from_numpy(np.array(latents_of(latent_server, mode)[0]))
    replacements = {
        "zeros": lambda ordinal, own: torch.zeros_like(own),
        "given": lambda ordinal, own: other.latents[ordinal % len(other.latents)],
        "none": lambda ordinal, own: None,
        "noise": lambda ordinal, own: noise(4, ordinal, own),
    }
    expected = oracle.decode(ids, [image], forced=answer.token_ids, bias=bias, replace=replacements[mode])
    assert_same(answer, expected)
    assert np.allclose(fed, torch.stack(expected.latents) if expected.latents else fed[:0], atol=1e-4)
    # The replaced latents were really used: the reference with its own latents gives other log-probabilities.
    own = oracle.decode(ids, [image], forced=answer.token_ids, bias=bias)
    assert np.abs(np.array(own.logprobs) - np.array(answer.logprobs)).max() > 100 * TOLERANCE


def test_a_prefix_is_continued_with_its_own_latents(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    """Cutting a completion after its first span and sending it as the prompt, with its latents, changes nothing."""
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    (whole,) = generate(latent_server, ids, (image,), bias=bias, extra=latent_args(key="whole"))
    (latents,) = latents_of(latent_server, "whole")
    for cut in (oracle.latent.size + 1, 2):  # after the span, and inside it
        prefix = ids + whole.token_ids[:cut]
        known = latents[: prefix.count(oracle.latent.pad_id)]
        rest = generate(
            latent_server, prefix, (image,), bias=bias, extra=latent_args("keep", known), max_tokens=STEPS - cut
        )[0]
        assert rest.token_ids == whole.token_ids[cut:]
        assert np.abs(np.array(rest.logprobs) - np.array(whole.logprobs[cut:])).max() <= TOLERANCE


@pytest.mark.parametrize("mode", ["zeros", "given", "noise"])
def test_a_prefix_is_continued_with_other_latents(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float], mode: str
) -> None:
    """The pads of the prompt are replaced as those of the output are, and counted on from there."""
    latent = oracle.latent
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    prefix = [*ids, *[latent.pad_id] * latent.size, latent.end_id, latent.start_id]
    hidden = oracle.model.config.text_config.hidden_size
    rows = latent.size if mode == "noise" else latent.size + 1
    data = np.random.default_rng(0).standard_normal((rows, hidden), dtype=np.float32)
    given = torch.from_numpy(data)
    replacements = {
        "zeros": lambda ordinal, own: torch.zeros_like(own),
        "given": lambda ordinal, own: given[ordinal % rows],
        "noise": lambda ordinal, own: noise(0, ordinal, own),
    }
    replace = replacements[mode]
    expected = oracle.decode(
        prefix,
        [image],
        steps=STEPS,
        bias=bias,
        replace=replace,
        prompt_latents=[replace(ordinal, given[ordinal]) for ordinal in range(latent.size)],
    )
    sent = None if mode == "zeros" else data
    (answer,) = generate(
        latent_server, prefix, (image,), bias=bias, extra=latent_args(mode, sent), salt=cache_salt(mode, sent)
    )
    assert_same(answer, expected)


def test_dropping_the_latents_is_an_edit_of_the_ids(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    latent, image = oracle.latent, png(112, 112, 0)
    ids = [*prompt(latent_server.checkpoint, "Follow", start=True), latent.end_id]
    (answer,) = generate(latent_server, ids, (image,), bias=bias)
    assert_same(answer, oracle.decode(ids, [image], steps=STEPS, bias=bias))


def test_a_prompt_longer_than_a_step_is_prefilled_in_chunks(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    """With a seed: a discarded sample of a partial prefill must neither end the engine nor move the generator."""
    ids = prompt(latent_server.checkpoint, "Which cell do you reach? " * 90, pictures=2, start=True)
    images = (png(112, 112, 3), png(84, 112, 4))
    assert len(oracle.expand(ids, images)[0]) > 2 * BATCHED_TOKENS
    (answer,) = generate(latent_server, ids, images, bias=bias, temperature=1.0, seed=3)
    assert_same(answer, oracle.decode(ids, images, forced=answer.token_ids, bias=bias))
    (again,) = generate(latent_server, ids, images, bias=bias, temperature=1.0, seed=3)
    assert again.token_ids == answer.token_ids


def test_concurrent_requests_with_prefix_cache_hits(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    text = "Follow the arrows from the marked cell. " * 3
    ids, images = prompt(latent_server.checkpoint, text, start=True), [png(112, 112, seed) for seed in range(4)]
    zeros = {"extra": latent_args("zeros"), "salt": cache_salt("zeros")}
    replacements = ((lambda ordinal, own: own), (lambda ordinal, own: torch.zeros_like(own)))
    expected = {
        (n, zeroed): oracle.decode(ids, [image], steps=STEPS, bias=bias, replace=replacements[zeroed])
        for n, image in enumerate(images)
        for zeroed in (False, True)
    }
    jobs = [(n, zeroed) for n in range(len(images)) for zeroed in (False, False, False, True)]
    before = latent_server.metric("vllm:prefix_cache_hits_total")

    def run(job: tuple[int, bool]) -> Answer:
        return generate(latent_server, ids, (images[job[0]],), bias=bias, **(zeros if job[1] else {}))[0]

    for _ in range(2):
        with ThreadPoolExecutor(len(jobs)) as pool:
            for job, answer in zip(jobs, pool.map(run, jobs), strict=True):
                assert_same(answer, expected[job])
    assert latent_server.metric("vllm:prefix_cache_hits_total") > before


def test_preempted_requests_feed_the_same_latents_again(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    """More requests than the key-value cache holds: vLLM drops some and computes them again later."""
    checkpoint = latent_server.checkpoint
    texts = [f"{n} Which cell do you reach? " * 4 for n in range(64)]
    jobs: list[tuple[list[int], tuple[bytes, ...], str]] = [
        (prompt(checkpoint, text, pictures=0, start=True), (), "keep") for text in texts
    ]
    pictured = prompt(checkpoint, "Which cell?", start=True)
    jobs += [(pictured, (png(84, 84, n),), mode) for n in range(3) for mode in ("keep", "noise")]
    before = latent_server.metric("vllm:num_preemptions_total")

    def run(number: int) -> Answer:
        ids, images, mode = jobs[number]
        extra, salt = latent_args(mode, key=f"preempted-{number}"), cache_salt(mode)
        options: dict[str, Any] = {"max_tokens": 64, "temperature": 1.0, "extra": extra, "salt": salt}
        return generate(latent_server, ids, images, bias=bias, **options)[0]

    with ThreadPoolExecutor(len(jobs)) as pool:
        answers = list(pool.map(run, range(len(jobs))))
    assert latent_server.metric("vllm:num_preemptions_total") > before
    spans_seen = 0
    for number, (answer, (ids, images, mode)) in enumerate(zip(answers, jobs, strict=True)):
        latents = torch.from_numpy(np.array(latents_of(latent_server, f"preempted-{number}")[0]))
        if images:
            replace = (lambda ordinal, own: noise(0, ordinal, own)) if mode == "noise" else (lambda ordinal, own: own)
            expected = oracle.decode(ids, images, forced=answer.token_ids, bias=bias, replace=replace)
        else:
            expected = oracle.check(ids, answer.token_ids, latents, bias)
        assert_same(answer, expected)
        assert torch.allclose(latents, torch.stack(expected.latents), atol=1e-4)
        spans_seen += spans(answer.token_ids, oracle.latent.pad_id)
    assert spans_seen > len(jobs)


def test_the_rule_is_what_makes_latents_matter(
    latent_server: RunningServer, oracle: Oracle, bias: dict[int, float]
) -> None:
    """The comparison fails when the overwrite of the pads' embeddings is off (mode `none`)."""
    ids, image = prompt(latent_server.checkpoint, "Follow", start=True), png(112, 112, 0)
    expected = oracle.decode(ids, [image], steps=STEPS, bias=bias)
    (answer,) = generate(latent_server, ids, (image,), bias=bias, extra=latent_args("none"), salt=cache_salt("none"))
    with pytest.raises(AssertionError):
        assert_same(answer, expected)
