"""Per-token estimates of KL(policy ‖ reference) from tokens that the policy sampled (Schulman 2020)."""

from typing import Literal

from torch import Tensor

from covt_rl.algorithms.surrogate import LOG_RATIO_LIMIT

Estimator = Literal["k1", "k2", "k3"]
K3_LIMIT = 10.0
"""A token that the reference finds e¹⁰ times as likely must not decide a whole batch."""


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """[B, T]; gradients flow through `logprobs`.

    k1 = log(π/ref): unbiased, may be negative. k2 = ½ log²(π/ref): its gradient is the KL's. k3 = r − 1 − log r with
    r = ref/π: unbiased and never negative (GRPO, arXiv 2402.03300 eq. 4); bounded here.
    """
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    back = (-difference).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return (back.exp() - back - 1).clamp(max=K3_LIMIT)
