"""`accuracy`: does the completion's final answer equal the gold answer? The group names the grader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from covt_rewards.accuracy.gold_kinds import choose_grader
from covt_rewards.accuracy.graders import Grade, GradingTask, check_grader, load_grader
from covt_rewards.answers import unwrap_gold
from covt_rewards.reward_errors import RewardError
from covt_rewards.tasks.vsp_plan import PlanVariant
from covt_rewards.types import Group, RewardResult, Rollout


@dataclass(frozen=True, slots=True)
class AccuracyReward:
    r"""0 to 1; every grader except `boxes` gives 0 or 1.

    Attributes:
        grader: for groups that name none: `math`, `choice`, `text`, `vsp`, `boxes`, `comt`; empty chooses one for each
            group (`choose_grader`).
        lenient: also read answers without `\boxed{…}` or `<answer>` ("the answer is …", a single short line).
        vsp_rule: `stop_at_goal` (gymnasium: the walk ends at the goal) or `end_on_goal` (Mirage: the plan ends there).
        precision: decimals to which numbers must agree (math); a row's `metadata["precision"]` overrides it.
        time_limit: seconds for one completion. An answer that takes longer is stopped and scores 0.
    """

    grader: str = ""
    lenient: bool = True
    vsp_rule: PlanVariant = "stop_at_goal"
    time_limit: float = 5.0
    precision: int = 6

    def __post_init__(self) -> None:
        if self.grader:
            check_grader(self.grader, "accuracy.grader")
        if not self.time_limit > 0:
            raise RewardError(f"accuracy.time_limit is {self.time_limit}", "give seconds above 0")
        if not 0 <= self.precision <= 15:
            raise RewardError(f"accuracy.precision is {self.precision}", "give 0 to 15 decimals")

    def __call__(self, group: Group) -> list[RewardResult]:
        """Grade every rollout.

        Raises:
            GoldError: when the gold answer itself cannot be read.
        """
        return [RewardResult(g.score, {"accuracy": g.score, **g.parts}, g.reason) for g in self.grade(group)]

    def grade(self, group: Group, rollouts: Sequence[Rollout] | None = None) -> list[Grade]:
        """Grade `rollouts` (by default the group's own) against the group's gold answer."""
        chosen = group.rollouts if rollouts is None else rollouts
        task = self.make_task(group)
        named = group.grader or self.grader
        grader = load_grader(choose_grader(task.gold, group.options, group.metadata, named))
        return grader(task, [rollout.text for rollout in chosen])

    def check_gold(self, group: Group) -> None:
        """Raise `GoldError` when the gold answer cannot be read. Call it when data is prepared."""
        self.grade(group, ())

    def make_task(self, group: Group) -> GradingTask:
        """Build what the grader sees of the group, with this reward's settings."""
        own = group.metadata.get("precision")
        is_valid = isinstance(own, int | float) and not isinstance(own, bool) and own in range(16)  # 2 and 2.0
        gold = unwrap_gold(group.answer)
        return GradingTask(
            gold=gold,
            marked=gold != group.answer,
            options=group.options,
            metadata=group.metadata,
            lenient=self.lenient,
            vsp_rule=self.vsp_rule,
            time_limit=self.time_limit,
            precision=int(cast("float", own)) if is_valid else self.precision,
        )


def grade(
    completion: str,
    gold: str,
    grader: str = "",
    metadata: Mapping[str, object] | None = None,
    options: Sequence[str] = (),
) -> float:
    r"""Grade one completion, or one bare answer, as the `accuracy` reward does with its default settings.

    Args:
        completion: a whole completion, `\boxed{B}`, or just `B`.
        gold: the gold answer.
        grader: `math`, `choice`, `text`, `vsp`, `boxes`, `comt`; empty chooses by options, metadata and gold answer.
        metadata: of the row; for `vsp` it holds the map, `{"rows": ["SFH", …]}`.
        options: the texts of a multiple-choice question.

    Returns:
        0 to 1; every grader except `boxes` gives 0 or 1.

    Raises:
        GoldError: when the gold answer cannot be read.
        RewardError: for an unknown grader.
    """
    group = Group(gold, (Rollout(completion),), grader=grader, options=tuple(options), metadata=metadata or {})
    return AccuracyReward().grade(group)[0].score
