"""CISPO (arXiv 2506.13585): the importance weight is clipped, not the update, so that no token loses its gradient."""

from torch import Tensor

from covt_rl.algorithms.surrogate import LOG_RATIO_LIMIT


def cispo_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Loss of each token [B, T]: −sg(clip(ratio, 1 − clip_low, 1 + clip_high)) · advantage · logprob (eq. 4).

    Shapes are those of `clipped_surrogate`. The paper clips from above only: use a clip_low close to 1.
    """
    log_ratio = (logprobs - old_logprobs).detach().clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    weight = log_ratio.exp().clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs
