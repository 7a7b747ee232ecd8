"""The decoding file that exports ship stands alone; it feeds latents by the package's feedback rule."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from covt_model.generation import custom_generate
from covt_model.latent_config import HEADS, NORMALIZE
from covt_model.latents import heads
from covt_model.latents.feedback import feedback


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_it_normalizes_as_the_feedback_rule_does(normalize: str):
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(custom_generate._normalize(hidden, normalize), feedback(hidden, normalize))


@pytest.mark.parametrize("head", HEADS)
def test_it_applies_every_head_as_the_package_does(head: str, tmp_path: Path):
    generator = torch.Generator().manual_seed(1)
    built = heads.build_head(head, 16)
    if built is not None:
        for parameter in built.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        heads.save_head(tmp_path, dict(built.named_parameters()))
    model = SimpleNamespace(
        config=SimpleNamespace(_name_or_path=str(tmp_path)), lm_head=torch.nn.Linear(16, 4, bias=False)
    )
    hidden = torch.randn(3, 16, generator=generator)
    expected = hidden if built is None else built(hidden)
    torch.testing.assert_close(custom_generate._load_head(model, head)(hidden), expected)
