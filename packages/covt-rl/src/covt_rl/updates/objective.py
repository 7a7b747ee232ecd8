"""The policy-gradient loss of a batch of completions, latents included."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from covt_model.encoding.batch import Batch
from covt_model.encoding.encode import IGNORE
from covt_model.latents.policy import LatentPolicy
from covt_model.latents.training_losses import sampled_logprobs
from covt_rl.algorithms.aggregation import aggregate
from covt_rl.algorithms.importance import importance_weights
from covt_rl.algorithms.kl import kl_estimate
from covt_rl.algorithms.losses import LOSSES, Clip
from covt_rl.rl_recipe import AlgorithmSection


@dataclass(frozen=True)
class Target:
    """What the completions of a micro-batch are trained towards; B rows padded to T tokens.

    Attributes:
        server: [B, T], the server's log-probabilities, 0 where no token was sampled.
        advantages: [B].
        tokens, sequences: counts of the global batch.
        old: [B, T], the trainer's at the beginning of the step; None: the weights haven't moved since.
        reference: [B, T], the frozen policy's, for the KL.
        gap_limit: rows on which the trainer differs by more than this from the server, in the mean over their tokens,
            carry no weight; None weighs all rows.
    """

    server: Tensor
    advantages: Tensor
    tokens: float
    sequences: float
    old: Tensor | None = None
    reference: Tensor | None = None
    gap_limit: float | None = None


@dataclass(frozen=True)
class PolicyLoss:
    """This rank's share of the loss, and sums over its sampled tokens for the log.

    `sums` holds, by name: rows, and masked, those without weight because of their gap; all_tokens and all_gap, the
    |trainer − server| log-probability, over all rows; and over the tokens of rows with weight: tokens; gap; kl_server,
    the k3 estimate of KL(server ‖ trainer); kl, the estimate of KL(policy ‖ reference); entropy; clipped, tokens whose
    ratio lies outside the clip range; importance, the weights.
    """

    loss: Tensor
    sums: dict[str, float]


class GrpoObjective(nn.Module):
    """One call is one forward of the policy over sampled completions: the unit that the ZeRO-3 engine sees."""

    def __init__(
        self, policy: LatentPolicy, algorithm: AlgorithmSection, temperature: float, max_tokens: int = 1
    ) -> None:
        super().__init__()
        self.policy = policy
        self.algorithm = algorithm
        self.temperature = temperature
        self.max_tokens = max_tokens

    def logprobs(
        self, batch: Batch, features: Sequence[Tensor], *, max_segments: int, latents: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of the sampled tokens [B, T], 0 where no token was sampled.

        batch: prompts with completions; labels are the sampled tokens, forced ones are ignored. features: visual
        tokens of the prompts' pictures, each [n_i, H]. max_segments: the most latent segments of a row on any rank.
        latents: [P, H], the server's, to replay; None recomputes them.
        """
        hidden = self.policy.hidden(batch, features, max_segments=max_segments, latents=latents)
        latent = self.policy.latent
        return sampled_logprobs(
            self.policy.model.lm_head,
            hidden,
            batch.labels,
            temperature=self.temperature,
            banned=(latent.pad_id, latent.end_id),
        )

    def forward(
        self,
        batch: Batch,
        features: Sequence[Tensor],
        target: Target | None = None,
        *,
        max_segments: int,
        latents: Tensor | None = None,
    ) -> PolicyLoss | Tensor:
        """Loss of a micro-batch; without a target its log-probabilities [B, T]."""
        logprobs, entropy = self.logprobs(batch, features, max_segments=max_segments, latents=latents)
        if target is None:
            return logprobs
        return self.loss(logprobs, entropy, (batch.labels != IGNORE).float(), target)

    def loss(self, logprobs: Tensor, entropy: Tensor, mask: Tensor, target: Target) -> PolicyLoss:
        """logprobs, entropy, mask: [B, T]; mask is 1 on sampled tokens."""
        options = self.algorithm
        current = logprobs.detach() if target.old is None else target.old
        counts = {"rows": float(mask.any(1).sum()), "masked": 0.0, "all_tokens": float(mask.sum())}
        counts["all_gap"] = float(((current - target.server).abs() * mask).sum())
        if target.gap_limit is not None:
            agree = _agree(current, target.server, mask, target.gap_limit)
            counts["masked"], mask = float((~agree).sum()), mask * agree[:, None]
        old = target.server if options.importance == "none" else current
        weights = importance_weights(
            current,
            target.server,
            mask,
            how=options.importance,
            cap=options.importance_cap,
            level=options.importance_level,
        )
        clip = Clip(options.clip_low, options.clip_high, options.dual_clip)
        per_token = weights * LOSSES[options.loss].surrogate(logprobs, old, target.advantages[:, None], mask, clip)
        kl = None
        if target.reference is not None:
            kl = kl_estimate(logprobs, target.reference, options.kl_estimator)
            if options.kl_in == "loss":
                per_token = per_token + options.kl_weight * kl
        if options.entropy_weight:
            per_token = per_token - options.entropy_weight * entropy
        loss = aggregate(
            per_token,
            mask,
            options.averaging,
            tokens=target.tokens,
            sequences=target.sequences,
            max_tokens=self.max_tokens,
        )
        sums = self._sums(logprobs, old, target.server, entropy, weights, kl, mask)
        return PolicyLoss(loss, sums | counts)

    @torch.no_grad()
    def _sums(
        self,
        logprobs: Tensor,
        old: Tensor,
        server: Tensor,
        entropy: Tensor,
        weights: Tensor,
        kl: Tensor | None,
        mask: Tensor,
    ) -> dict[str, float]:
        apart = (logprobs - server) * mask
        ratio = ((logprobs - old) * mask).exp()
        outside = (ratio < 1 - self.algorithm.clip_low) | (ratio > 1 + self.algorithm.clip_high)
        values = {
            "tokens": mask,
            "gap": apart.abs(),
            "kl_server": apart.exp() - 1 - apart,
            "kl": torch.zeros_like(mask) if kl is None else kl,
            "entropy": entropy,
            "clipped": outside.float(),
            "importance": weights,
        }
        return {name: float((value * mask).sum()) for name, value in values.items()}


def _agree(current: Tensor, server: Tensor, mask: Tensor, limit: float) -> Tensor:
    """[B]: whether trainer and server agree on a row; log-probabilities that are not finite never do."""
    gaps = ((current - server).abs() * mask).sum(1) / mask.sum(1).clamp(min=1)
    return gaps <= limit
