"""The named losses: which surrogate and which aggregation each one is."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from covt_rl.algorithms.aggregation import Aggregation
from covt_rl.algorithms.cispo import cispo_surrogate
from covt_rl.algorithms.gspo import gspo_surrogate
from covt_rl.algorithms.surrogate import clipped_surrogate

Loss = Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo"]

AGGREGATIONS: dict[Loss, Aggregation] = {
    "grpo": "sequence_mean",
    "dapo": "token_mean",
    "dr_grpo": "constant",
    "gspo": "sequence_mean",
    "cispo": "token_mean",
}


@dataclass(frozen=True)
class Clip:
    """Ranges of the ratio; see `clipped_surrogate`."""

    low: float
    high: float
    dual: float | None = None


def surrogate(
    loss: Loss, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: Clip
) -> Tensor:
    """Loss of each token [B, T] for the named loss; shapes as in `clipped_surrogate`."""
    if loss == "cispo":
        return cispo_surrogate(logprobs, old_logprobs, advantages, clip_low=clip.low, clip_high=clip.high)
    if loss == "gspo":
        return gspo_surrogate(
            logprobs, old_logprobs, advantages, mask, clip_low=clip.low, clip_high=clip.high, dual_clip=clip.dual
        )
    return clipped_surrogate(
        logprobs, old_logprobs, advantages, clip_low=clip.low, clip_high=clip.high, dual_clip=clip.dual
    )
