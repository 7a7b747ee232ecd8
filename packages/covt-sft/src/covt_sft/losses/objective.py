"""Supervised losses: token cross-entropy, and the alignment of hidden states to helper-image features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covt_model.encoding.batch import Batch
from covt_model.latents.heads import HEADS
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import Sum, alignment_loss, token_loss
from covt_sft.sft_recipe import Stage1Section


@dataclass(frozen=True)
class LossSums:
    """Loss sums over this rank's micro-batch. The caller divides by the counts of the global batch."""

    ce: Sum
    align: Sum | None
    """1 − cosine over latents; None without targets."""


@dataclass(frozen=True)
class Noise:
    """Noise [P, H] on the targets of stage 1, where they are inputs and in the alignment loss; None means none."""

    inputs: Tensor | None = None
    targets: Tensor | None = None


NO_NOISE = Noise()


class Objective(nn.Module):
    """The module that the ZeRO-3 engine trains: one call is one forward and its losses."""

    def __init__(self, policy: LatentPolicy) -> None:
        super().__init__()
        self.policy = policy
        # A head with weights is trained by the alignment too.
        self.rule = policy.feedback if policy.latent.head in HEADS else None

    def forward(
        self,
        batch: Batch,
        features: Sequence[Tensor],
        *,
        targets: Tensor | None = None,
        feeds_targets: bool = True,
        noise: Noise = NO_NOISE,
        max_segments: int | None = None,
    ) -> LossSums:
        """Losses of a micro-batch of B rows and P pads.

        Args:
            batch: the rows.
            features: visual tokens of the rows' images, each [n_i, H].
            targets: [P, H], what the latents are aligned to. A pad whose target is zeros has none and is not aligned.
            feeds_targets: whether targets are the latents, as in stage 1, where a pad without one keeps its own
                embedding. Otherwise, and without targets, the model generates its own.
            noise: added to the targets.
            max_segments: latent segments to compute, at least the most of a row; None means the most of a row.
        """
        given = None if targets is None else has_target(targets)
        inputs = targets if feeds_targets else None
        if inputs is not None and noise.inputs is not None:
            inputs = inputs + noise.inputs
        has_latent = None if inputs is None else given
        hidden = self.policy.hidden(batch, features, latents=inputs, has_latent=has_latent, max_segments=max_segments)
        ce = token_loss(self.policy.model.lm_head, hidden, batch.labels)
        if targets is None:
            return LossSums(ce, align=None)
        goals = targets if noise.targets is None else targets + noise.targets
        return LossSums(ce, alignment_loss(hidden, batch.pad_index, goals, self.rule, given))


def has_target(targets: Tensor) -> Tensor:
    """Which pads have a target among targets [P, H]: bool [P]. Zeros stand for none."""
    return targets.any(dim=-1)


def draw_noise(targets: Tensor, stage: Stage1Section, generator: torch.Generator) -> Noise:
    """Gaussian noise in the shape of `targets` [P, H] for a micro-batch of stage 1."""

    def draw(std: float) -> Tensor | None:
        if std == 0:
            return None
        return torch.randn(targets.shape, generator=generator, dtype=targets.dtype).to(targets.device) * std

    return Noise(inputs=draw(stage.noise_input), targets=draw(stage.noise_target))
