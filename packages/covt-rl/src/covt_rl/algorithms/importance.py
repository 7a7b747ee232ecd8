"""Importance sampling from the server's policy, which sampled, to the trainer's at the beginning of the step.

The two differ by numerics, and by one update when rollouts and training overlap (arXiv 2505.24034, 2510.18855).
"""

from typing import Literal

import torch
from torch import Tensor

from covt_rl.algorithms.surrogate import LOG_RATIO_LIMIT

Correction = Literal["none", "truncate", "mask"]
Level = Literal["token", "sequence"]


def importance_weights(
    old_logprobs: Tensor, server_logprobs: Tensor, mask: Tensor, *, how: Correction, cap: float, level: Level
) -> Tensor:
    """[B, T] constant weights of the tokens' losses.

    Args:
        old_logprobs: [B, T], of the trainer, with the weights at the beginning of the step.
        server_logprobs: [B, T], as sampled.
        mask: [B, T], 1 where a token counts.
        how: `truncate` is min(ratio, cap); `mask` is the ratio, or 0 outside [1/cap, cap]; `none` is 1.
        cap: largest weight, over 1.
        level: a `token`'s own ratio, or the product over its `sequence`.
    """
    log_ratio = (old_logprobs - server_logprobs).detach() * mask
    if how == "none":
        return torch.ones_like(log_ratio)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    if how == "truncate":
        return ratio.clamp(max=cap)
    return torch.where((ratio >= 1 / cap) & (ratio <= cap), ratio, torch.zeros_like(ratio))
