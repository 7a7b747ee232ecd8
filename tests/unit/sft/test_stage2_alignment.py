"""Stage 2 with the alignment kept, against one full forward of the stock model per latent: losses and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet
from covt_model.checkpoints.latent_checkpoint import load_model
from covt_model.encoding.batch import Batch, collate
from covt_model.encoding.encode import Encoder, Sample
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import mean_loss
from covt_sft.losses.objective import Objective
from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint
from covt_sft.sft_recipe import SftConfig

CONFIG = SftConfig.model_validate({"data": {"path": "data"}, "latent": {"normalize": "rms"}})
WEIGHT = 4.0


@dataclass
class Case:
    """Three rows: two with two latent segments each, and one without, in one batch."""

    model: Any
    encoder: Encoder
    samples: list[Sample]
    batch: Batch
    features: list[torch.Tensor]
    targets: torch.Tensor

    def gradients(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        self.model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("stage2")
    options = {"n_train": 40, "n_prompts": 0, "n_test": 1, "n_validation": 0}
    prepare("vsp", folder / "data", options=options)
    checkpoint = build_tiny_checkpoint(CONFIG, folder / "data", folder / "model")
    model: Any = load_model(checkpoint)
    model.model.visual.requires_grad_(False)
    encoder = Encoder(checkpoint, require_latent=False)
    rows = sorted(PreparedSet(folder / "data").rows("train"), key=lambda row: len(row.answer))
    bare = rows[1].model_copy(update={"steps": rows[1].steps[-1:], "metadata": "{}"})
    samples = [encoder.encode(row) for row in (rows[0], bare, rows[-1])]
    batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
    features = VisionFeatures(model.model.visual, encoder.settings)([i for row in batch.pictures for i in row])
    targets = torch.randn(len(batch.pad_index), 64, generator=torch.Generator().manual_seed(1))
    targets[3] = 0  # a pad without a target is not aligned
    return Case(model, encoder, samples, batch, features, targets)


def full_prefix(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy, and summed 1 − cosine of each latent's hidden state and target."""
    text, size = case.model.model.language_model, case.model.config.get_text_config().hidden_size
    ce, align = torch.zeros(()), torch.zeros(())
    remaining = iter(case.targets)
    for sample, picture in zip(case.samples, case.features, strict=True):
        ids, positions = torch.from_numpy(sample.input_ids), torch.from_numpy(sample.position_ids)[:, None]
        embeds = list(case.model.get_input_embeddings()(ids))
        for place, feature in zip(
            (ids == case.encoder.image_pad_id).nonzero().flatten().tolist(), picture, strict=True
        ):
            embeds[place] = feature

        def hidden(end: int, embeds: list[torch.Tensor] = embeds, positions: torch.Tensor = positions) -> torch.Tensor:
            inputs = torch.stack(embeds[:end])[None]
            return text(inputs_embeds=inputs, position_ids=positions[..., :end], use_cache=False).last_hidden_state[0]

        for start, end in sample.spans:
            for pad in range(start, end):
                before = hidden(pad)[-1]
                embeds[pad] = before * size**0.5 / before.norm()
                target = next(remaining)
                if target.any():
                    align = align + 1 - before @ target / (before.norm() * target.norm())
        logits = case.model.lm_head(hidden(len(ids)))[:-1]
        ce = ce + torch.nn.functional.cross_entropy(logits, torch.from_numpy(sample.labels)[1:], reduction="sum")
    return ce, align


def parts(case: Case, **options: Any) -> tuple[Any, Any]:
    sums = Objective(LatentPolicy(case.model, case.encoder.latent, "latent"))(case.batch, case.features, **options)
    return sums.ce, sums.align


def test_losses_and_gradients_equal_a_full_forward_per_latent(case: Case):
    ce, align = parts(case, targets=case.targets, feeds_targets=False)
    counts = case.batch.supervised, len(case.targets) - 1
    assert (ce.count, align.count) == counts
    oracle_ce, oracle_align = full_prefix(case)
    assert ce.total.item() == pytest.approx(oracle_ce.item(), rel=1e-4)
    assert align.total.item() == pytest.approx(oracle_align.item(), rel=1e-4)
    ours = case.gradients(mean_loss([(1.0, ce, counts[0]), (WEIGHT, align, counts[1])]))
    theirs = case.gradients(oracle_ce / counts[0] + WEIGHT * oracle_align / counts[1])
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name)


def test_the_alignment_changes_nothing_but_the_loss(case: Case):
    """The model generates its own latents, with targets and without."""
    with torch.no_grad():
        aligned, align = parts(case, targets=case.targets, feeds_targets=False)
        alone, none = parts(case)
        fed, _ = parts(case, targets=case.targets)
    assert none is None and align is not None
    assert float(aligned.total) == float(alone.total) != pytest.approx(float(fed.total), rel=1e-6)
