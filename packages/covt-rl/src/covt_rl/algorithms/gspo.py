"""GSPO (arXiv 2507.18071): one importance ratio per completion, the geometric mean of its tokens' ratios."""

from torch import Tensor

from covt_rl.algorithms.surrogate import clipped_surrogate


def gspo_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Loss of each token [B, T]: the clipped surrogate of the completion's ratio (eq. 5 and 7), same for its tokens.

    Shapes are those of `clipped_surrogate`; mask: [B, T], 1 where a token counts. The paper's clip ranges are much
    narrower (3e-4, 4e-4) than a token ratio's.
    """
    log_ratio = ((logprobs - old_logprobs) * mask).sum(1) / mask.sum(1).clamp(min=1)
    sequence = log_ratio[:, None].expand_as(logprobs)
    return clipped_surrogate(
        sequence,
        sequence.new_zeros(()),
        advantages,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
    )
