"""The running summary of `covt-rewards score`: counts, means, failures and progress, in constant memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TextIO

from covt_rewards.registry import ConfiguredReward
from covt_rewards.score import GroupScore
from covt_rewards.types import RewardResult

_TERMINAL_SECONDS = 0.5
_LOG_SECONDS = 10.0
_MAX_REASONS = 1000
"""Distinct reasons counted per reward; reasons that quote an answer rarely repeat."""


class Summary:
    """Accumulates scores, and prints progress while it does.

    Attributes:
        groups: groups added.
        completions: completions added.
    """

    def __init__(self, rewards: Sequence[ConfiguredReward]) -> None:
        self._rewards = rewards
        self._sums = {reward.name: 0.0 for reward in rewards}
        self._failed = {reward.name: 0 for reward in rewards}
        self._reasons: dict[str, Counter[str]] = {reward.name: Counter() for reward in rewards}
        self._total = 0.0
        self.groups = 0
        self.completions = 0
        self._began = time.monotonic()
        self._shown = self._began
        self._progress_open = False

    def add(self, score: GroupScore) -> None:
        """Add the score of one group."""
        self.groups += 1
        self.completions += len(score.totals)
        self._total += sum(score.totals)
        for name, results in score.results.items():
            self._sums[name] += sum(result.value for result in results)
            self._failed[name] += name in score.failures
            self._count_reasons(self._reasons[name], results)

    @staticmethod
    def _count_reasons(counts: Counter[str], results: Iterable[RewardResult]) -> None:
        for result in results:
            if result.reason and (result.reason in counts or len(counts) < _MAX_REASONS):
                counts[result.reason] += 1

    def _most_frequent(self, name: str) -> list[tuple[str, int]]:
        return [(reason, count) for reason, count in self._reasons[name].most_common(3) if count > 1]

    def show_progress(self, stream: TextIO, now: float) -> None:
        """Rewrite one line on a terminal; elsewhere print a line every ten seconds."""
        terminal = stream.isatty()
        if now - self._shown < (_TERMINAL_SECONDS if terminal else _LOG_SECONDS):
            return
        self._shown = now
        rate = self.completions / (now - self._began)
        line = f"{self.groups} groups, {self.completions} completions, {rate:.0f}/s"
        self._progress_open = terminal
        print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=stream, flush=True)

    def end_progress(self, stream: TextIO) -> None:
        """End the line that `show_progress` left open on a terminal."""
        if self._progress_open:
            print(file=stream)

    def to_json(self) -> dict[str, object]:
        """Convert to JSON: means over completions, groups on which a reward failed, and its most frequent reasons."""
        count = max(1, self.completions)
        return {
            "groups": self.groups,
            "completions": self.completions,
            "mean_total": self._total / count,
            "rewards": {
                reward.name: {
                    "weight": reward.weight,
                    "mean": self._sums[reward.name] / count,
                    "failures": self._failed[reward.name],
                    "reasons": dict(self._most_frequent(reward.name)),
                }
                for reward in self._rewards
            },
            "seconds": time.monotonic() - self._began,
        }

    def table(self) -> str:
        """Format the summary as a table for people."""
        count = max(1, self.completions)
        lines = [
            f"groups: {self.groups}, completions: {self.completions}",
            f"{'reward':16} weight     mean  failures  most often",
        ]
        for reward in self._rewards:
            mean = self._sums[reward.name] / count
            why = "".join(f"  {reason} ({times})" for reason, times in self._most_frequent(reward.name)[:1])
            lines.append(f"{reward.name:16} {reward.weight:6g} {mean:8.4f} {self._failed[reward.name]:9d}{why}")
        return "\n".join([*lines, f"{'total':16}        {self._total / count:8.4f}"])
