"""Supervised losses: token cross-entropy, and in stage 1 the alignment of hidden states to helper-image features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covt_model.encoding.batch import Batch
from covt_model.latents.heads import HEADS
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import Sum, alignment_loss, token_loss


@dataclass(frozen=True)
class LossSums:
    """Loss sums over this rank's micro-batch. The caller divides by the counts of the global batch."""

    ce: Sum
    align: Sum | None
    """1 − cosine over latents; None in stage 2 and for the controls."""


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
        noise: Tensor | None = None,
        max_segments: int | None = None,
    ) -> LossSums:
        """Losses of a micro-batch of B rows and P pads.

        Args:
            batch: the rows.
            features: visual tokens of the rows' images, each [n_i, H].
            targets: [P, H], used as latents in stage 1; None lets the model generate its own.
            noise: [P, H], added to the targets where they are inputs.
            max_segments: latent segments to compute, at least the most of a row; None means the most of a row.
        """
        inputs = targets if targets is None or noise is None else targets + noise
        hidden = self.policy.hidden(batch, features, latents=inputs, max_segments=max_segments)
        return LossSums(
            ce=token_loss(self.policy.model.lm_head, hidden, batch.labels),
            align=None if targets is None else alignment_loss(hidden, batch.pad_index, targets, self.rule),
        )


def target_noise(targets: Tensor, std: float, generator: torch.Generator) -> Tensor | None:
    """Gaussian noise in the shape of `targets` [P, H]; None where `std` is 0."""
    if std == 0:
        return None
    return torch.randn(targets.shape, generator=generator, dtype=targets.dtype).to(targets.device) * std
