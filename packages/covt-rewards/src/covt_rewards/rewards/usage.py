"""`usage`: does the completion use latent spans, and not too many of them?"""

from __future__ import annotations

from dataclasses import dataclass

from covt_rewards.latents import LatentFormat, check_rollout_spans
from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group, RewardResult, Rollout


@dataclass(frozen=True, slots=True)
class UsageReward:
    """0 outside the bounds or with a malformed span; inside, 1 minus `cost` for each span above `at_least`.

    Attributes:
        at_least, at_most: bounds on the number of latent spans, both inclusive.
        cost: subtracted for each span above `at_least`; the value does not fall below 0.
        latent: the checkpoint's latent vocabulary; without it the recorded `latent_spans` are counted.
    """

    at_least: int = 1
    at_most: int = 4
    cost: float = 0.0
    latent: LatentFormat | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.at_least <= self.at_most:
            raise RewardError(f"usage: bounds {self.at_least}..{self.at_most}", "choose 0 <= at_least <= at_most")

    def __call__(self, group: Group) -> list[RewardResult]:
        """Score every rollout. Parts: `spans`, `latent_tokens`, `used` (1 when there is a span)."""
        return [self._score(rollout) for rollout in group.rollouts]

    def _score(self, rollout: Rollout) -> RewardResult:
        report = check_rollout_spans(rollout, self.latent)
        count = len(report.spans)
        parts = {
            "spans": float(count),
            "latent_tokens": float(sum(end - start for start, end in report.spans)),
            "used": float(count > 0),
        }
        if report.problem:
            return RewardResult(0.0, parts, report.problem)
        if not self.at_least <= count <= self.at_most:
            return RewardResult(0.0, parts, f"{count} latent spans; {self.at_least} to {self.at_most} are allowed")
        return RewardResult(max(0.0, 1.0 - self.cost * (count - self.at_least)), parts)
