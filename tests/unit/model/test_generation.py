"""Batched generation equals decoding each row alone by full forwards, in every latent mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_samples import make_row, visual_arguments

from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.families import read_image_settings
from covt_model.generation.latent_generation import generate
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback, noise
from covt_model.latents.input_embeddings import deepstack, input_embeds
from covt_model.latents.latent_forward import latent_forward
from covt_model.latents.training_losses import sampled_logprobs

NEW = 14


@pytest.fixture(scope="module")
def latent(tiny) -> LatentConfig:
    return LatentConfig.read(tiny)


@pytest.fixture(scope="module")
def model(tiny):
    """A model that likes to open latent segments and, less, to end its turn."""
    from covt_model.checkpoints.latent_checkpoint import load_model

    model = load_model(tiny)
    latent = LatentConfig.read(tiny)
    bias = torch.zeros(model.config.text_config.vocab_size)
    bias[latent.start_id], bias[model.generation_config.eos_token_id] = 1.8, 1.2
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


@pytest.fixture(scope="module")
def encoder(tiny) -> Encoder:
    return Encoder(tiny)


@pytest.fixture(scope="module")
def prompts(encoder):
    return [encoder.encode_prompt(make_row(index, cells=cells)) for index, cells in ((1, 2), (2, 3), (3, 1))]


@pytest.fixture(scope="module")
def features(tiny, model, prompts):
    cache = VisionFeatures(model.model.visual, read_image_settings(tiny))
    return cache([picture for prompt in prompts for picture in prompt.pictures])


def alone(model, latent, encoder, prompt, feature, mode, given):
    """Greedy decoding of one row: a full forward through Transformers' own model for every token."""
    ids, pads, latents, due = [], 0, [], -1
    embeds = [model.get_input_embeddings()(torch.from_numpy(prompt.expanded))]
    embeds[0] = embeds[0].clone()
    is_image = torch.from_numpy(prompt.expanded) == encoder.image_pad_id
    embeds[0][is_image] = feature[:, :64]
    logprobs = []
    for _ in range(NEW):
        sample = encoder.completion(prompt, ids)
        positions = torch.from_numpy(sample.position_ids)[:, None]
        shown = torch.cat([is_image, torch.zeros(len(ids), dtype=torch.bool)])[None]
        visual = visual_arguments(feature, shown, 64)
        hidden = model.model.language_model(inputs_embeds=torch.cat(embeds)[None], position_ids=positions, **visual)[0][
            0, -1
        ]
        logits = model.lm_head(hidden)
        if due > 0:
            token, due, logprob = latent.pad_id, due - 1, 0.0
        elif due == 0:
            token, due, logprob = latent.end_id, -1, 0.0
        else:
            logits[[latent.pad_id, latent.end_id]] = float("-inf")
            token = int(logits.argmax())
            logprob = float(logits.log_softmax(-1)[token])
            due = latent.size if token == latent.start_id else -1
        embed = model.get_input_embeddings()(torch.tensor([token]))
        if token == latent.pad_id:
            own = embed[0] if latent.head == "none" else feedback(hidden, latent.normalize)
            chosen = {"keep": own, "zeros": own * 0, "noise": noise(0, pads, own)}.get(mode)
            embed = (given[pads % len(given)] if chosen is None else chosen)[None]
            latents.append(embed[0])
            pads += 1
        embeds.append(embed)
        ids.append(token)
        logprobs.append(logprob)
        if token in model.generation_config.eos_token_id:
            break
    return ids, logprobs, latents


@pytest.mark.parametrize("mode", ["keep", "zeros", "noise", "given", "none"])
@torch.no_grad()
def test_a_batch_equals_each_row_decoded_alone(model, latent, encoder, prompts, features, mode):
    if mode == "none":
        latent, mode = replace(latent, head="none"), "keep"
    given = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    results = generate(
        model, prompts, features, latent, max_new_tokens=NEW, mode=mode,
        latents=[given] * 3 if mode == "given" else None,
    )  # fmt: skip
    assert any(result.latent_spans for result in results)
    for prompt, feature, result in zip(prompts, features, results, strict=True):
        ids, logprobs, latents = alone(model, latent, encoder, prompt, feature, mode, given)
        assert result.token_ids == ids
        assert result.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert len(result.latents) == sum(end - start for start, end in result.latent_spans) == len(latents)
        if latents:
            torch.testing.assert_close(result.latents, torch.stack(latents), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_trainer_scores_sampled_tokens_as_they_were_sampled(model, latent, encoder, prompts, features):
    results = generate(model, prompts, features, latent, max_new_tokens=NEW, temperature=0.7, seed=5)
    samples = [encoder.completion(p, r.token_ids) for p, r in zip(prompts, results, strict=True)]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    assert batch.max_segments > 0
    hidden = latent_forward(
        model.model.language_model,
        input_embeds(model.get_input_embeddings(), batch, features),
        batch.position_ids,
        batch.attention_mask,
        batch.spans,
        lambda states: feedback(states, latent.normalize),
        size=latent.size,
        deepstack=deepstack(batch, features, 64),
    )
    ours, entropy = sampled_logprobs(
        model.lm_head, hidden, batch.labels, temperature=0.7, banned=(latent.pad_id, latent.end_id)
    )
    for row, (sample, result) in enumerate(zip(samples, results, strict=True)):
        scored = ours[row, sample.prompt_length : len(sample)].tolist()
        assert scored == pytest.approx(result.logprobs, abs=1e-4)
        assert (ours[row, : sample.prompt_length] == 0).all()
    assert (entropy[batch.labels != -100] > 0).all()


@torch.no_grad()
def test_latent_mode_forces_pads_and_the_end_marker_and_nothing_else(model, latent, prompts, features):
    results = generate(model, prompts, features, latent, max_new_tokens=60, temperature=0.4, seed=2)
    seen = 0
    for result in results:
        ids = result.token_ids
        for start, end in result.latent_spans:
            seen += 1
            assert ids[start - 1] == latent.start_id
            assert end - start == latent.size or end == len(ids)
            assert end == len(ids) or ids[end] == latent.end_id
            assert result.logprobs[start : end + 1] == [0.0] * len(ids[start : end + 1])
        assert ids.count(latent.pad_id) == sum(end - start for start, end in result.latent_spans)
        assert ids.count(latent.end_id) <= len(result.latent_spans)
        assert result.finish_reason == ("stop" if ids[-1] in (model.generation_config.eos_token_id) else "length")
    assert seen


@torch.no_grad()
def test_the_seed_decides_sampling_and_all_done_keeps_ranks_in_step(model, latent, prompts, features):
    def run(seed: int):
        return [
            result.token_ids
            for result in generate(model, prompts, features, latent, max_new_tokens=NEW, temperature=1.0, seed=seed)
        ]

    assert run(1) == run(1) != run(2)
    asked: list[bool] = []

    def never(finished: bool) -> bool:
        asked.append(finished)
        return False

    kept = generate(model, prompts, features, latent, max_new_tokens=NEW, temperature=1.0, seed=1, all_done=never)
    assert len(asked) == NEW - 1
    assert [result.token_ids for result in kept] == run(1)


def test_given_latents_must_go_with_the_mode(model, latent, prompts, features):
    with pytest.raises(ValueError, match="needs latents"):
        generate(model, prompts, features, latent, max_new_tokens=2, mode="given")
