"""`length`: the soft overlong penalty of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13)."""

from __future__ import annotations

from dataclasses import dataclass

from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group, RewardResult


@dataclass(frozen=True, slots=True)
class LengthReward:
    """0 up to `max_tokens − buffer` tokens, then falling linearly to −1 at `max_tokens` and beyond.

    Attributes:
        max_tokens: tokens of the longest completion that the run samples.
        buffer: tokens before `max_tokens` over which the penalty grows.
    """

    max_tokens: int = 2048
    buffer: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.buffer <= self.max_tokens:
            raise RewardError(
                f"length: buffer {self.buffer} is not between 1 and max_tokens {self.max_tokens}",
                "choose a smaller buffer",
            )

    def __call__(self, group: Group) -> list[RewardResult]:
        """Score every rollout. Parts: `tokens`.

        Raises:
            RewardError: when a completion has text but no token ids.
        """
        return [self._score(len(rollout.token_ids), bool(rollout.text)) for rollout in group.rollouts]

    def _score(self, tokens: int, has_text: bool) -> RewardResult:
        if has_text and not tokens:
            raise RewardError(
                "length counts tokens, and the completion has no token_ids", "give token_ids, or drop length"
            )
        over = tokens - (self.max_tokens - self.buffer)
        value = -min(1.0, max(0.0, over / self.buffer))
        return RewardResult(
            value, {"tokens": float(tokens)}, f"{tokens} tokens of {self.max_tokens}" if over > 0 else ""
        )
