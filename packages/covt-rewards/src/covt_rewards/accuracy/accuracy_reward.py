"""`accuracy`: 1 when the completion's final answer equals the gold answer, by the grader the task names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from covt_rewards.accuracy.graders import GRADERS, Grade, Task, choose_grader, load_grader
from covt_rewards.answers import unmarked
from covt_rewards.reward_errors import RewardError
from covt_rewards.tasks.vsp_plan import PlanVariant
from covt_rewards.types import Group, RewardResult, Rollout


@dataclass(frozen=True, slots=True)
class AccuracyReward:
    r"""0 to 1; all graders but `boxes` give 0 or 1.

    Attributes:
        grader: for groups that name none: `math`, `choice`, `text`, `vsp`, `boxes`; empty chooses by the group.
        lenient: also read answers without `\boxed{…}` or `<answer>` ("the answer is …", a single short line).
        vsp_rule: `stop_at_goal` (gymnasium: the walk ends on the goal) or `end_on_goal` (Mirage: the plan must).
        precision: decimals to which numbers must agree (math); a row's `metadata["precision"]` goes first.
        time_limit: seconds one completion may take; the work is really ended then and scored 0.
    """

    grader: str = ""
    lenient: bool = True
    vsp_rule: PlanVariant = "stop_at_goal"
    time_limit: float = 5.0
    precision: int = 6

    def __post_init__(self) -> None:
        if self.grader and self.grader not in GRADERS:
            raise RewardError(f"accuracy.grader is {self.grader!r}", f"the graders are {', '.join(GRADERS)}")
        if not self.time_limit > 0:
            raise RewardError(f"accuracy.time_limit is {self.time_limit}", "give seconds above 0")
        if not 0 <= self.precision <= 15:
            raise RewardError(f"accuracy.precision is {self.precision}", "give 0 to 15 decimals")

    def __call__(self, group: Group) -> list[RewardResult]:
        """One result per rollout; raises `GoldError` when the gold answer itself cannot be read."""
        return [RewardResult(g.score, {"accuracy": g.score, **g.parts}, g.reason) for g in self.grade(group)]

    def grade(self, group: Group, rollouts: Sequence[Rollout] | None = None) -> list[Grade]:
        """Grades of `rollouts` (default: the group's), against the group's gold answer."""
        chosen = group.rollouts if rollouts is None else rollouts
        task = self.task(group)
        grader = load_grader(choose_grader(group, task.gold, self.grader))
        return grader(task, [rollout.text for rollout in chosen])

    def check_gold(self, group: Group) -> None:
        """Raise `GoldError` when the gold answer cannot be read: call it when data is prepared."""
        self.grade(group, ())

    def task(self, group: Group) -> Task:
        own = group.metadata.get("precision")
        counts = isinstance(own, int | float) and not isinstance(own, bool) and own in range(16)  # 2, and 2.0
        precision = int(cast("float", own)) if counts else self.precision
        gold = unmarked(group.answer)
        return Task(
            gold=gold,
            marked=gold != group.answer,
            options=group.options,
            metadata=group.metadata,
            lenient=self.lenient,
            vsp_rule=self.vsp_rule,
            time_limit=self.time_limit,
            precision=precision,
        )
