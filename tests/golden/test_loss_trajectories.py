"""Short loss trajectories of both stages on a tiny model, pinned: five AdamW steps each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from golden_rows import golden_row

from covt_model.checkpoints.split_load import load_split
from covt_model.checkpoints.tiny_checkpoint import build_tiny, distinct_cells
from covt_model.encoding.batch import collate
from covt_model.encoding.encode import Encoder
from covt_model.encoding.row_images import decode
from covt_model.encoding.vision_features import VisionFeatures
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import alignment_loss, token_loss
from covt_model.targets.alignment_targets import make_targets

GOLDEN = Path(__file__).with_name("loss_trajectories.json")
STEPS = 5


def trajectories(folder: Path) -> dict[str, list[float]]:
    """Losses by name: stage 1's two terms, stage 2, the two controls, each from the same initial weights."""
    rows = [golden_row(seed, segments=1 + seed % 2, cells=2, size=4) for seed in range(4)]
    cells = distinct_cells(decode(image.bytes) for row in rows for image in row.images)
    build_tiny(folder, [row.question + " ".join(s.text or "" for s in row.steps) for row in rows], cells, latent_size=4)
    result: dict[str, list[float]] = {}
    for name, mode in (("stage1", "latent"), ("stage2", "latent"), ("pause", "pause"), ("plain", "plain")):
        encoder = Encoder(folder, mode=mode)
        samples = [encoder.encode(row) for row in rows]
        batch = collate(samples, pad_id=encoder.pad_id, image_pad_id=encoder.image_pad_id)
        model, visual = load_split(folder, torch.float32)
        policy, features = LatentPolicy(model, encoder.latent, mode), VisionFeatures(visual, encoder.settings)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
        images = features([picture for row in batch.pictures for picture in row])
        targets = None
        if name == "stage1":
            helpers = features([picture for row in batch.helpers for segment in row for picture in segment])
            targets = make_targets(batch, encoder.latent, helpers, selection="focus").values
        for _ in range(STEPS):
            hidden = policy.hidden(batch, images, latents=targets)
            part = token_loss(model.lm_head, hidden, batch.labels)
            loss = ce = part.total / part.count
            if targets is not None:
                align = alignment_loss(hidden, batch.pad_index, targets)
                loss = ce + align.total / align.count
                result.setdefault("stage1 alignment", []).append(float((loss - ce).detach()))
            result.setdefault(name, []).append(float(ce.detach()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return result


def test_losses_are_as_pinned(tmp_path):
    """To pin anew on purpose: COVT_PIN=1. The tolerance allows for another CPU's order of additions."""
    result = trajectories(tmp_path)
    if os.environ.get("COVT_PIN"):
        GOLDEN.write_text(json.dumps(result, indent=1) + "\n")
    pinned = json.loads(GOLDEN.read_text())
    assert result.keys() == pinned.keys()
    for name, losses in result.items():
        assert losses == pytest.approx(pinned[name], rel=2e-3), name
        assert losses[-1] < losses[0], name
