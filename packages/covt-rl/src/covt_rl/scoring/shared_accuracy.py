"""Accuracy that several rewards of a run share: each text of a group is graded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

from covt_rewards import ConfiguredReward, Group, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.accuracy.graders import Grade
from covt_rewards.rewards.necessity import NecessityReward


class _Grades(threading.local):
    """The grades of the group that a thread is scoring, by text."""

    group: Group | None = None
    by_text: dict[str, Grade]


@dataclass(frozen=True, slots=True)
class SharedAccuracy(AccuracyReward):
    """Accuracy that remembers the grades of one group, for the other rewards that ask about it.

    A thread scores one group at a time, with all rewards.
    """

    _grades: _Grades = field(default_factory=_Grades, init=False, repr=False, compare=False)

    def grade(self, group: Group, rollouts: Sequence[Rollout] | None = None) -> list[Grade]:
        """Grade `rollouts` (by default the group's own), each text once."""
        known = self._grades
        if known.group is not group:
            known.group, known.by_text = group, {}
        chosen = group.rollouts if rollouts is None else rollouts
        new = {one.text: one for one in chosen if one.text not in known.by_text}
        # `super()` does not work in a class with slots that a decorator has built anew.
        grades = AccuracyReward.grade(self, group, tuple(new.values())) if new or not chosen else []
        known.by_text |= dict(zip(new, grades, strict=True))
        return [known.by_text[one.text] for one in chosen]


def share_accuracy(rewards: Sequence[ConfiguredReward]) -> list[ConfiguredReward]:
    """The same rewards; `accuracy` and `necessity` grade together where they have the same settings."""
    plain = next((one.reward for one in rewards if isinstance(one.reward, AccuracyReward)), None)
    if plain is None:
        return list(rewards)
    shared = SharedAccuracy(**{f.name: getattr(plain, f.name) for f in fields(AccuracyReward)})
    found: list[ConfiguredReward] = []
    for one in rewards:
        reward = one.reward
        if reward is plain:
            found.append(replace(one, reward=shared))
        elif isinstance(reward, NecessityReward) and reward.accuracy == plain:
            found.append(replace(one, reward=replace(reward, accuracy=shared)))
        else:
            found.append(one)
    return found
