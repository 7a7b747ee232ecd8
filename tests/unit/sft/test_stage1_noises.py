"""The losses of stage 1: on which side its two noises act."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_sft.losses.objective import NO_NOISE, Noise, Objective, draw_noise
from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint
from covt_sft.sft_recipe import SftConfig, Stage1Section

CONFIG = SftConfig.model_validate({"data": {"path": "data"}, "latent": {"normalize": "rms"}})


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory):
    """(cross-entropy, alignment) of some rows with their own targets under a noise."""
    folder = tmp_path_factory.mktemp("objective")
    prepare("trace", folder / "data", options={"n_train": 12, "n_prompts": 1, "n_test": 1})
    checkpoint = build_tiny_checkpoint(CONFIG, folder / "data", folder / "model")
    model: Any = load_model(checkpoint)
    encoder = Encoder(checkpoint, require_latent=False)
    samples = [encoder.encode(row) for row in PreparedSet(folder / "data").rows("train", 6)]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    features = VisionFeatures(model.model.visual, encoder.settings)([i for row in batch.pictures for i in row])
    objective = Objective(LatentPolicy(model, encoder.latent, "latent"))
    targets = torch.randn(len(batch.pad_index), 64, generator=torch.Generator().manual_seed(1))

    def compute(noise: Noise, keep: int | None = None) -> tuple[float, float, int]:
        given = targets.clone()
        if keep is not None:
            given[keep:] = 0
        with torch.no_grad():
            sums = objective(batch, features, targets=given, noise=noise)
        assert sums.align is not None
        return float(sums.ce.total), float(sums.align.total), sums.align.count

    compute.targets = targets  # pyright: ignore[reportFunctionMemberAccess]
    return compute


def test_noise_on_targets_leaves_the_inputs_clean(losses):
    noise = draw_noise(losses.targets, Stage1Section(steps=1, noise_target=0.5), torch.Generator().manual_seed(2))
    assert noise.inputs is None
    clean, noisy = losses(NO_NOISE), losses(noise)
    assert noisy[0] == clean[0] and noisy[1] != pytest.approx(clean[1], rel=1e-3)


def test_noise_on_inputs_changes_what_follows(losses):
    stage = Stage1Section(steps=1, noise_target=0.0, noise_input=0.5)
    noise = draw_noise(losses.targets, stage, torch.Generator().manual_seed(2))
    assert noise.targets is None and noise.inputs is not None
    assert float(noise.inputs.std()) == pytest.approx(0.5, rel=0.1)
    assert losses(noise)[0] != pytest.approx(losses(NO_NOISE)[0], rel=1e-6)


def test_pads_without_a_target_are_neither_fed_nor_counted(losses):
    whole, part = losses(NO_NOISE), losses(NO_NOISE, keep=3)
    assert (whole[2], part[2]) == (len(losses.targets), 3)
    assert part[0] != pytest.approx(whole[0], rel=1e-6) and part[1] < whole[1]
    assert losses(NO_NOISE, keep=0)[1:] == (0.0, 0)
