"""PPO's clipped surrogate for a policy-gradient step on rollouts of a slightly older policy."""

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""exp(20) is past any clip range, and far from overflow."""


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """Loss of each token (to be minimized), before masking and averaging.

    Args:
        logprobs: [B, T], of the policy being trained; gradients flow.
        old_logprobs: [B, T], of the policy that sampled, constant.
        advantages: [B, T] or [B, 1], constant.
        clip_low: the ratio is clipped to [1 − clip_low, 1 + clip_high] (arXiv 1707.06347 eq. 7).
        clip_high: an upper bound above `clip_low` is DAPO's clip-higher (arXiv 2503.14476).
        dual_clip: for negative advantages the loss is at most −advantage × dual_clip (arXiv 1912.09729).

    Returns:
        [B, T].
    """
    ratio = (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss
