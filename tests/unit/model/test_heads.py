"""Heads with weights: the same function in training and generation, in checkpoints, and refused where not served."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from model_samples import make_row, random_picture

from covt_model.checkpoints.hf_folder import write_checkpoint
from covt_model.checkpoints.latent_checkpoint import load_model, prepare_checkpoint
from covt_model.checkpoints.tiny_checkpoint import build_tiny
from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.generation.latent_generation import generate
from covt_model.latent_config import LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.latents.heads import FILE, build_head, feedback_rule, load_head, save_head
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.reference_forward import reference_forward
from covt_model.model_errors import CheckpointError, ModelError

HEADS = ("linear", "mlp")


@pytest.fixture(scope="module", params=HEADS)
def with_head(request, tmp_path_factory):
    """A tiny checkpoint whose head is not the identity any more."""
    pictures = [random_picture(torch.Generator().manual_seed(n), 2) for n in range(8)]
    texts = [make_row(n).question for n in range(4)]
    out = build_tiny(tmp_path_factory.mktemp(request.param), texts, pictures, latent_size=4, head=request.param)
    head = load_head(out, LatentConfig.read(out), 64)
    generator = torch.Generator().manual_seed(5)
    save_head(
        out,
        {
            name: value + 0.1 * torch.randn(value.shape, generator=generator)
            for name, value in head.state_dict().items()
        },
    )
    return out


@pytest.mark.parametrize("kind", HEADS)
def test_a_new_head_is_the_identity_and_has_weights_to_learn(kind):
    head, x = build_head(kind, 6, seed=1), torch.randn(3, 6)
    torch.testing.assert_close(head(x), x)
    gradients = torch.autograd.grad(head(x).square().sum(), list(head.parameters()), allow_unused=True)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    assert build_head("identity", 6) is None and build_head("none", 6) is None


def test_the_rule_is_the_head_of_the_normalized_state(with_head):
    model, latent = load_model(with_head), LatentConfig.read(with_head)
    state = torch.randn(2, 64)
    weights = load_head(with_head, latent, 64).state_dict()
    x = state / (state.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    if latent.head == "linear":
        expected = x @ weights["weight"].T + weights["bias"]
    else:
        inner = x @ weights["up.weight"].T + weights["up.bias"]
        expected = x + (inner * inner.sigmoid()) @ weights["down.weight"].T + weights["down.bias"]
    torch.testing.assert_close(feedback_rule(model, latent)(state), expected)
    assert not torch.allclose(expected, feedback(state, "rms"), atol=1e-2)


def test_training_feeds_what_the_oracle_and_generation_feed(with_head):
    encoder, model = Encoder(with_head), load_model(with_head)
    policy = LatentPolicy(model, encoder.latent, "latent")
    batch = collate(
        [encoder.encode(make_row(1, segments=2)), encoder.encode(make_row(2))],
        pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id,
    )  # fmt: skip
    features = VisionFeatures(model.model.visual, encoder.settings)
    images = features([picture for row in batch.pictures for picture in row])
    hidden = policy.hidden(batch, images)
    from covt_model.latents.input_embeddings import input_embeds

    embeds = input_embeds(model.get_input_embeddings(), batch, images)
    expected = reference_forward(
        model.model.language_model, embeds, batch.position_ids, batch.attention_mask, batch.spans, policy.feedback
    )
    kept = batch.attention_mask.bool()
    torch.testing.assert_close(hidden[kept], expected[kept], rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(hidden.square().sum(), list(model.latent_head.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)

    prompt = encoder.encode_prompt(make_row(1))
    model.lm_head.weight.data[encoder.latent.start_id] *= 50  # so that it thinks
    (row,) = generate(
        model, [prompt], features(list(prompt.pictures)), encoder.latent, max_new_tokens=30, temperature=1.0, seed=2
    )
    assert row.latent_spans, "the rest of the test needs a latent segment"
    scored = collate(
        [encoder.completion(prompt, row.token_ids)], pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id
    )
    again = policy.hidden(scored, features(list(prompt.pictures)))
    torch.testing.assert_close(policy.feedback(again[0, scored.pad_index - 1]), row.latents, rtol=1e-3, atol=1e-3)


def test_an_export_holds_the_trained_head_and_stays_stock(with_head, tmp_path):
    model, latent = load_model(with_head), LatentConfig.read(with_head)
    named = [(f"policy.model.{name}", 2 * tensor) for name, tensor in model.named_parameters() if "visual" not in name]
    out = write_checkpoint(named, with_head, tmp_path / "hf", latent)
    assert LatentConfig.read(out) == latent
    trained = load_model(out).latent_head.state_dict()
    for name, tensor in model.latent_head.state_dict().items():
        assert torch.equal(trained[name], 2 * tensor)
    from transformers import Qwen2_5_VLForConditionalGeneration

    _, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["unexpected_keys"] and not info["missing_keys"]


def test_preparing_a_published_checkpoint_with_a_head(tiny, tmp_path):
    out = prepare_checkpoint(tiny, tmp_path / "out", head="mlp")
    assert (out / FILE).is_file() and load_model(out).latent_head.up.weight.shape == (64, 64)


def test_missing_and_foreign_weights_are_refused(with_head, tiny_model, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(with_head, folder)
    latent = LatentConfig.read(folder)
    other = "mlp" if latent.head == "linear" else "linear"
    with pytest.raises(ModelError, match=f"a '{other}' head has"):
        load_head(folder, replace(latent, head=other), 64)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"no covt_latent/head\.safetensors"):
        load_model(folder)
    with pytest.raises(ModelError, match=f"no '{latent.head}' head"):
        feedback_rule(tiny_model, latent)
