"""Samples laid end to end in one row compute what each computes alone."""

from __future__ import annotations

import copy
from itertools import accumulate, pairwise

import pytest
import torch
from model_samples import make_row, text_model
from torch.nn import functional

from covt_model.decoder.layered_decoder import plain_forward
from covt_model.decoder.varlen_attention import KERNELS
from covt_model.encoding.batch import collate
from covt_model.encoding.encode import IGNORE, Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latent_config import LatentConfig
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import alignment_loss, token_loss
from covt_model.targets.alignment_targets import SelectionRule, make_targets


@pytest.fixture(scope="module")
def encoder(tiny) -> Encoder:
    return Encoder(tiny)


@pytest.fixture(scope="module")
def samples(encoder):
    rows = [make_row(1, cells=3), make_row(2, segments=3), make_row(3, cells=4, segments=2)]
    return [encoder.encode(row) for row in rows]


def batch_of(encoder, samples, **options):
    return collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id, **options)


def test_a_packed_batch_is_its_samples_end_to_end(encoder, samples):
    batch = batch_of(encoder, samples, packed=True)
    assert batch.input_ids.shape == (1, sum(map(len, samples))) and batch.attention_mask.all()
    assert batch.packed == tuple(map(len, samples)) and batch_of(encoder, samples).packed is None
    for start, sample in zip(batch.starts, samples, strict=True):
        place = slice(start, start + len(sample))
        assert batch.input_ids[0, place].tolist() == sample.input_ids.tolist()
        assert batch.position_ids[:, 0, place].tolist() == sample.position_ids.tolist()
        assert batch.labels[0, start] == IGNORE
    assert (batch.input_ids[0, batch.pad_index] == encoder.latent.pad_id).all()
    assert (batch.input_ids[0, batch.image_index] == encoder.image_pad_id).all()
    padded = batch_of(encoder, samples)
    assert batch.supervised == padded.supervised and len(batch.image_index) == len(padded.image_index)


def test_no_sample_sees_another():
    model = text_model()
    embeds = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(3, 1, -1)
    with torch.no_grad():
        before = plain_forward(model, embeds, positions, lengths=[5, 7])
        embeds[:, :5] += 1
        after = plain_forward(model, embeds, positions, lengths=[5, 7])
    assert torch.equal(before[:, 5:], after[:, 5:]) and not torch.allclose(before[:, 1:5], after[:, 1:5])


@pytest.mark.parametrize("stage", [1, 2])
def test_losses_and_gradients_are_those_of_the_padded_batch_and_of_single_samples(
    encoder, samples, tiny, tiny_model, stage
):
    policy = LatentPolicy(tiny_model, LatentConfig.read(tiny), "latent")
    features = VisionFeatures(tiny_model.model.visual, encoder.settings)
    parameters = list(tiny_model.model.language_model.parameters())

    def losses(batches):
        total = torch.zeros(())
        for batch in batches:
            images = features([picture for row in batch.pictures for picture in row])
            helpers = features.merged([picture for row in batch.helpers for segment in row for picture in segment])
            targets = make_targets(batch, encoder.latent, helpers, selection="focus").values if stage == 1 else None
            hidden = policy.hidden(batch, images, latents=targets)
            total = total + token_loss(tiny_model.lm_head, hidden, batch.labels).total
            if targets is not None:
                total = total + alignment_loss(hidden, batch.pad_index, targets, policy.feedback).total
        return total, torch.autograd.grad(total, parameters, allow_unused=True)

    single, single_gradients = losses([batch_of(encoder, [sample]) for sample in samples])
    for batch in (batch_of(encoder, samples), batch_of(encoder, samples, packed=True)):
        loss, gradients = losses([batch])
        torch.testing.assert_close(loss, single, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(gradients, single_gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_selected_targets_are_the_same(tiny, tiny_model):
    encoder = Encoder(tiny, selection="ilvr")
    rows = [make_row(3, cells=3, helpers=2), make_row(4, cells=4, segments=2, helpers=1)]
    features = VisionFeatures(tiny_model.model.visual, encoder.settings)
    found = []
    for packed in (False, True):
        batch = batch_of(encoder, [encoder.encode(row) for row in rows], packed=packed)
        found.append(
            make_targets(
                batch,
                encoder.latent,
                features.merged([p for row in batch.helpers for s in row for p in s]),
                selection="ilvr",
                teacher=tiny_model.model.language_model,
                rule=SelectionRule(temperature=0.05),
                embed_tokens=tiny_model.get_input_embeddings(),
                image_features=features([p for row in batch.pictures for p in row]),
            )
        )
    torch.testing.assert_close(found[0].values, found[1].values)
    assert [[i.tolist() for s in row for i in s] for row in found[0].chosen] == [
        [i.tolist() for s in row for i in s] for row in found[1].chosen
    ]


def plain_varlen(queries, keys, values, query_lengths, key_lengths):
    """What the kernels compute on sequences of unequal lengths, one sequence after another."""
    outputs = []
    ranges = zip(*(pairwise(accumulate(lengths, initial=0)) for lengths in (query_lengths, key_lengths)), strict=True)
    for (first, last), (start, stop) in ranges:
        q, k, v = (part.transpose(0, 1) for part in (queries[first:last], keys[start:stop], values[start:stop]))
        earlier = (stop - start) - (last - first)
        visible = torch.ones(last - first, stop - start).tril(earlier).bool()
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_what_is_given_to_a_kernel_for_unequal_lengths_computes_the_same(
    encoder, samples, tiny, tiny_model, monkeypatch, stage, packed, kernel
):
    """The kernels need a GPU; here their definition stands in for them, so that lengths and places are tested."""
    monkeypatch.setitem(KERNELS, kernel, plain_varlen)
    monkeypatch.setattr("covt_model.decoder.varlen_attention._check_kernel", lambda attention, dtype: None)
    batch = batch_of(encoder, samples, packed=packed)
    features = VisionFeatures(tiny_model.model.visual, encoder.settings)([p for row in batch.pictures for p in row])
    latents = torch.randn(len(batch.pad_index), 64, generator=torch.Generator().manual_seed(1)) if stage == 1 else None
    results = []
    for attention in ("sdpa", kernel):
        model = copy.deepcopy(tiny_model)
        model.model.language_model.config._attn_implementation = attention
        policy = LatentPolicy(model, LatentConfig.read(tiny), "latent")
        hidden = policy.hidden(batch, features, latents=latents, max_segments=4)
        loss = token_loss(model.lm_head, hidden, batch.labels).total
        results.append((loss, torch.autograd.grad(loss, list(model.model.language_model.layers.parameters()))))
    (loss, gradients), (flash_loss, flash_gradients) = results
    torch.testing.assert_close(flash_loss, loss)
    for ours, theirs in zip(flash_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
