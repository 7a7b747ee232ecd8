"""The table of policy losses: which surrogate and which aggregation each name stands for.

To add a policy loss:
1. write its surrogate as a function of tensors in a file of this folder;
2. add a line to `LOSSES` that calls it and names how its tokens are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from covt_rl.algorithms.aggregation import Aggregation
from covt_rl.algorithms.cispo import cispo_surrogate
from covt_rl.algorithms.gspo import gspo_surrogate
from covt_rl.algorithms.surrogate import clipped_surrogate


@dataclass(frozen=True)
class Clip:
    """Ranges of the ratio; see `clipped_surrogate`."""

    low: float
    high: float
    dual: float | None = None


Surrogate = Callable[[Tensor, Tensor, Tensor, Tensor, Clip], Tensor]
"""logprobs [B, T], old_logprobs [B, T], advantages [B, 1], mask [B, T], clip → the loss of each token [B, T]."""


@dataclass(frozen=True)
class PolicyLoss:
    """A surrogate, and how its tokens are averaged unless the recipe says otherwise."""

    surrogate: Surrogate
    aggregation: Aggregation


def _clipped(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: Clip) -> Tensor:
    return clipped_surrogate(
        logprobs, old_logprobs, advantages, clip_low=clip.low, clip_high=clip.high, dual_clip=clip.dual
    )


def _gspo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: Clip) -> Tensor:
    return gspo_surrogate(
        logprobs, old_logprobs, advantages, mask, clip_low=clip.low, clip_high=clip.high, dual_clip=clip.dual
    )


def _cispo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: Clip) -> Tensor:
    return cispo_surrogate(logprobs, old_logprobs, advantages, clip_low=clip.low, clip_high=clip.high)


LOSSES: dict[str, PolicyLoss] = {
    "grpo": PolicyLoss(_clipped, "sequence_mean"),
    "dapo": PolicyLoss(_clipped, "token_mean"),
    "dr_grpo": PolicyLoss(_clipped, "constant"),
    "gspo": PolicyLoss(_gspo, "sequence_mean"),
    "cispo": PolicyLoss(_cispo, "token_mean"),
}


def check_loss_name(name: str) -> str:
    """Return a name that the table has; raises ValueError for any other."""
    if name not in LOSSES:
        raise ValueError(f"Input should be one of {', '.join(LOSSES)}")
    return name
