"""The kernels for unequal lengths on a GPU give what sdpa gives, to the rounding of bf16. Run with `-m gpu`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "model"))
from model_samples import text_model

from covt_model.latents.feedback import feedback
from covt_model.latents.latent_forward import latent_forward

pytestmark = pytest.mark.gpu

LENGTHS = [40, 23, 31]
SPANS = [[(20, 28), (30, 38)], [], [(9, 17)]]


@pytest.fixture(scope="module")
def model():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return text_model(heads=8, kv_heads=2, layers=3).to("cuda", torch.bfloat16)


def run(model, attention: str, latents: torch.Tensor | None, checkpoint: bool):
    model.config._attn_implementation = attention
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, sum(LENGTHS), 128, generator=generator).to("cuda", torch.bfloat16).requires_grad_()
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).expand(3, 1, -1).to("cuda")
    hidden = latent_forward(
        model, embeds, positions, torch.ones(1, sum(LENGTHS), device="cuda"), SPANS, partial(feedback, normalize="rms"),
        size=8, latents=latents, lengths=LENGTHS, checkpoint=checkpoint,
    )  # fmt: skip
    return hidden, torch.autograd.grad(hidden.float().square().mean(), list(model.layers.parameters()))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


@pytest.mark.parametrize("kernel", ["varlen", "flash_attention_2"])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_kernels_equal_sdpa(model, stage, checkpoint, kernel):
    """Hidden states to 2 %, gradients to 10 % of their norm: bf16 through three layers and two segments."""
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn")
    latents = torch.ones(24, 128, device="cuda", dtype=torch.bfloat16) if stage == 1 else None
    hidden, gradients = run(model, kernel, latents, checkpoint)
    expected, expected_gradients = run(model, "sdpa", latents, checkpoint)
    assert relative(hidden, expected) <= 0.02
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert relative(ours, theirs) <= 0.1
