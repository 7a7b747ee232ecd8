"""The policy-gradient loss of a batch of completions, latents included."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covt_model.batch import Batch
from covt_model.encode import IGNORE
from covt_model.losses import sampled_logprobs
from covt_model.policy import LatentPolicy
from covt_rl.algorithms.aggregation import aggregate
from covt_rl.algorithms.surrogate import clipped_surrogate
from covt_rl.config import AlgorithmSection


@dataclass(frozen=True)
class PolicyLoss:
    """This rank's share of the loss, and sums over its sampled tokens for the log."""

    loss: Tensor
    tokens: float
    gap: float
    """Summed |trainer − server| log-probability."""
    kl: float
    """Summed k3 estimate of KL(server policy ‖ trainer policy): r − 1 − log r with r = trainer/server."""
    entropy: float
    clipped: float
    """Tokens whose ratio lies outside the clip range."""


class GrpoObjective(nn.Module):
    """One call is one forward of the policy over sampled completions: the unit that the ZeRO-3 engine sees."""

    def __init__(self, policy: LatentPolicy, algorithm: AlgorithmSection, temperature: float) -> None:
        super().__init__()
        self.policy = policy
        self.algorithm = algorithm
        self.temperature = temperature

    def forward(
        self,
        batch: Batch,
        features: Sequence[Tensor],
        *,
        old_logprobs: Tensor,
        advantages: Tensor,
        tokens: float,
        sequences: float,
        max_segments: int,
    ) -> PolicyLoss:
        """Loss of a micro-batch of B completions padded to T tokens.

        Args:
            batch: prompts with completions; labels are the sampled tokens, forced ones are ignored.
            features: visual tokens of the prompts' pictures, each [n_i, H].
            old_logprobs: [B, T], the server's, 0 where no token was sampled.
            advantages: [B].
            tokens, sequences: counts of the global batch.
            max_segments: the most latent segments of a row on any rank.
        """
        hidden = self.policy.hidden(batch, features, max_segments=max_segments)
        latent = self.policy.latent
        logprobs, entropy = sampled_logprobs(
            self.policy.model.lm_head,
            hidden,
            batch.labels,
            temperature=self.temperature,
            banned=(latent.pad_id, latent.end_id),
        )
        mask = (batch.labels != IGNORE).float()
        options = self.algorithm
        per_token = clipped_surrogate(
            logprobs,
            old_logprobs,
            advantages[:, None],
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            dual_clip=options.dual_clip,
        )
        loss = aggregate(per_token, mask, options.aggregation, tokens=tokens, sequences=sequences)
        with torch.no_grad():
            log_ratio = (logprobs - old_logprobs) * mask
            ratio = log_ratio.exp()
            outside = ((ratio < 1 - options.clip_low) | (ratio > 1 + options.clip_high)) & (mask > 0)
            return PolicyLoss(
                loss=loss,
                tokens=float(mask.sum()),
                gap=float(log_ratio.abs().sum()),
                kl=float(((ratio - 1 - log_ratio) * mask).sum()),
                entropy=float((entropy * mask).sum()),
                clipped=float(outside.sum()),
            )
