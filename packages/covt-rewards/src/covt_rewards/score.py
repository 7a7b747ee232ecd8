"""Scoring groups with rewards: totals, values, parts and reasons.

A reward fails on a group when it raises, returns too few results, or returns a value that is not a finite number. Its
results for that group are then 0 with the reason, and the failure is counted. Other rewards and groups are unaffected.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean

from covt_rewards.registry import ConfiguredReward
from covt_rewards.reward_errors import GoldError
from covt_rewards.types import Group, RewardResult


@dataclass(frozen=True, slots=True)
class GroupScore:
    """All rewards of one group.

    Attributes:
        id: the group's id.
        totals: weighted sum of the rewards, per rollout.
        results: per reward, one result per rollout.
        failures: the cause, per reward that failed on this group.
        gold_problem: why the gold answer cannot be read; empty when it can.
    """

    id: str
    totals: tuple[float, ...]
    results: Mapping[str, tuple[RewardResult, ...]]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    gold_problem: str = ""

    @property
    def values(self) -> dict[str, list[float]]:
        """The unweighted values, per reward."""
        return {name: [result.value for result in results] for name, results in self.results.items()}

    @property
    def reasons(self) -> dict[str, list[str]]:
        """The reasons, per reward."""
        return {name: [result.reason for result in results] for name, results in self.results.items()}

    @property
    def parts(self) -> dict[str, list[Mapping[str, float]]]:
        """The parts, per reward."""
        return {name: [result.parts for result in results] for name, results in self.results.items()}

    def to_json(self) -> dict[str, object]:
        """Convert to the output row of `covt-rewards score`."""
        row: dict[str, object] = {
            "id": self.id,
            "rewards": self.values,
            "total": list(self.totals),
            "reasons": self.reasons,
            "parts": {name: [dict(parts) for parts in each] for name, each in self.parts.items()},
        }
        if self.failures:
            row["failures"] = dict(self.failures)
        return row


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of several groups, in their order."""

    groups: tuple[GroupScore, ...]

    @property
    def failures(self) -> dict[str, int]:
        """On how many groups each reward failed; rewards that never failed are absent."""
        counts: dict[str, int] = {}
        for group in self.groups:
            for name in group.failures:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def metrics(self) -> dict[str, float]:
        """Compute means for a log: `reward/total`, `reward/<name>`, `reward/<name>/<part>`, `reward/<name>/failures`.

        A part is averaged over the rollouts that have it.
        """
        collected: dict[str, list[float]] = {}
        for group in self.groups:
            collected.setdefault("reward/total", []).extend(group.totals)
            for name, results in group.results.items():
                for result in results:
                    collected.setdefault(f"reward/{name}", []).append(result.value)
                    for part, value in result.parts.items():
                        collected.setdefault(f"reward/{name}/{part}", []).append(value)
        means = {name: fmean(values) for name, values in collected.items() if values}
        return means | {f"reward/{name}/failures": float(count) for name, count in self.failures.items()}


def score_group(group: Group, rewards: Sequence[ConfiguredReward]) -> GroupScore:
    """Score one group with all rewards; never raises for what a reward does.

    Args:
        group: the rollouts of one prompt.
        rewards: from `parse_rewards`.
    """
    results: dict[str, tuple[RewardResult, ...]] = {}
    failures: dict[str, str] = {}
    gold_problem = ""
    for configured in rewards:
        try:
            given = tuple(configured.reward(group))
            problem = _problem(given, len(group.rollouts))
        except Exception as error:
            if isinstance(error, GoldError):
                gold_problem = error.message
            # Rewards may be foreign code, and one reward's fault must not end a training run. It is reported.
            given, problem = (), f"{type(error).__name__}: {error}"
        if problem:
            failures[configured.name] = problem
            given = tuple(RewardResult(0.0, {}, f"reward failed: {problem}") for _ in group.rollouts)
        results[configured.name] = given
    totals = tuple(
        sum(configured.weight * results[configured.name][i].value for configured in rewards)
        for i in range(len(group.rollouts))
    )
    return GroupScore(group.id, totals, results, failures, gold_problem)


def _problem(results: Sequence[RewardResult], expected: int) -> str:
    if len(results) != expected:
        return f"gave {len(results)} results for {expected} rollouts"
    for result in results:
        if not isinstance(result, RewardResult):  # pyright: ignore[reportUnnecessaryIsInstance] third-party code
            return f"gave a {type(result).__name__}, not a RewardResult"
        if not math.isfinite(result.value):
            return f"gave the value {result.value}"
    return ""


def iter_scores(groups: Iterable[Group], rewards: Sequence[ConfiguredReward], workers: int = 1) -> Iterator[GroupScore]:
    """Score groups one after the other, in their order and in constant memory.

    Args:
        groups: any iterable; it is read as scores are taken.
        rewards: from `parse_rewards`.
        workers: groups scored at once, in threads; computer algebra runs in as many processes.
    """
    if workers <= 1:
        for group in groups:
            yield score_group(group, rewards)
        return
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[GroupScore]] = deque()
        for group in groups:
            pending.append(pool.submit(score_group, group, rewards))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def score_groups(groups: Iterable[Group], rewards: Sequence[ConfiguredReward], workers: int = 1) -> Scores:
    """Score all groups at once; `iter_scores` streams and explains the arguments."""
    return Scores(tuple(iter_scores(groups, rewards, workers)))
