"""Heads of the feedback rule: `embed[t] = head(normalize(h[t−1]))`, with or without weights.

To add a head: write its module here, add a line to `HEADS`, and its name to `covt_model.latent_config.HEADS`. The file
that exports ship for plain Transformers (`generation/custom_generate.py`) stands alone and repeats its formula; a test
holds the two together.

A head starts as the identity, so that adding one to a trained checkpoint changes nothing. Its weights lie in
`covt_latent/head.safetensors`: a subfolder, since vLLM loads every safetensors file beside config.json as the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from covt_model.latent_config import KEY, LatentConfig
from covt_model.latents.feedback import feedback
from covt_model.model_errors import CheckpointError, ModelError

FILE = Path(KEY) / "head.safetensors"
ATTRIBUTE = "latent_head"
"""Under this name a head hangs on the Transformers model; so its parameters' names begin with it."""


class LinearHead(nn.Module):
    """`W x + b`, [..., H] → [..., H]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight, self.bias)


class MlpHead(nn.Module):
    """`x + D silu(U x + u) + d` with as many inner units as H, [..., H] → [..., H]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, hidden)
        self.down = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(functional.silu(self.up(x)))


HEADS: dict[str, Callable[[int], nn.Module]] = {"linear": LinearHead, "mlp": MlpHead}
"""The heads with weights: name → module of a hidden size."""


def build_head(head: str, hidden: int, seed: int = 0) -> nn.Module | None:
    """A new head for hidden size H; None for the kinds without weights."""
    if head not in HEADS:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HEADS[head](hidden)


def save_head(checkpoint: Path | str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a head's weights, by parameter name, into a checkpoint folder."""
    path = Path(checkpoint) / FILE
    path.parent.mkdir(exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_head(checkpoint: Path | str, latent: LatentConfig, hidden: int) -> nn.Module | None:
    """The checkpoint's head with its weights; None for the kinds without.

    Raises CheckpointError when the file is missing, ModelError when it holds another head.
    """
    head = build_head(latent.head, hidden)
    if head is None:
        return None
    path = Path(checkpoint) / FILE
    if not path.is_file():
        raise CheckpointError(
            f"{checkpoint} has latent head {latent.head!r} but no {FILE}", "export or download the checkpoint again"
        )
    tensors = load_file(path)
    expected = {name: tuple(value.shape) for name, value in head.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != expected:
        raise ModelError(
            f"{path} holds {found}, a {latent.head!r} head has {expected}", "export or download the checkpoint again"
        )
    head.load_state_dict(tensors)
    return head


def attach_head(model: Any, checkpoint: Path | str, latent: LatentConfig) -> None:
    """Hang the checkpoint's head on a Transformers model, in that model's dtype, where it has one with weights."""
    language: Any = model.model.language_model
    head = load_head(checkpoint, latent, language.config.hidden_size)
    if head is not None:
        setattr(model, ATTRIBUTE, head.to(language.norm.weight.dtype))


def feedback_rule(model: nn.Module, latent: LatentConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """`h[t−1]` → the input embedding of the pad at t, [..., H] → [..., H], for a model from `load_model`.

    Raises ModelError when the settings name a head with weights and the model has none.
    """
    head = getattr(model, ATTRIBUTE, None)
    if latent.head in HEADS and head is None:
        raise ModelError(
            f"the model has no {latent.head!r} head", "load it with covt_model.checkpoints.latent_checkpoint.load_model"
        )

    def rule(hidden: torch.Tensor) -> torch.Tensor:
        normalized = feedback(hidden, latent.normalize)
        return normalized if head is None else head(normalized)

    return rule
