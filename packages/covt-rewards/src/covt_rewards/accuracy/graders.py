"""The table of graders, and what a grader takes and gives. To add one:

1. Write `accuracy/NAME.py` with a function `grade(task: GradingTask, texts: Sequence[str]) -> list[Grade]`.
2. Return one grade per text, whatever a model wrote. Raise `GoldError` only for a gold answer that cannot be read.
3. Add one line to `GRADERS` below; the name then works in rows, in `accuracy.grader` and in `--grader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import cast

from covt_rewards.reward_errors import RewardError
from covt_rewards.tasks.vsp_plan import PlanVariant


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's verdict on one completion.

    Attributes:
        score: 0 to 1.
        reason: why it is not 1, in a few words.
        parts: named numbers for logging.
    """

    score: float
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class GradingTask:
    r"""The prompt as a grader sees it, with the settings of `accuracy`.

    Attributes:
        gold: the gold answer, without a `\boxed{…}` or `<answer>` around it.
        marked: whether the gold answer had such a marker.
        options: texts of a multiple-choice question.
        metadata: the group's metadata.
        lenient: whether to read answers that carry no marker.
        vsp_rule: `stop_at_goal` or `end_on_goal`.
        time_limit: seconds for one completion, for graders that run computer algebra (math).
        precision: decimals to which numbers must agree (math).
    """

    gold: str
    options: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])
    lenient: bool = True
    vsp_rule: PlanVariant = "stop_at_goal"
    time_limit: float = 5.0
    precision: int = 6
    marked: bool = False


Grader = Callable[[GradingTask, Sequence[str]], list[Grade]]
"""Maps the texts of completions to one grade each. Raises `GoldError` for an unreadable gold answer, nothing else."""

GRADERS: Mapping[str, str] = {
    "boxes": "covt_rewards.accuracy.boxes",
    "choice": "covt_rewards.accuracy.choice",
    "comt": "covt_rewards.accuracy.comt",
    "math": "covt_rewards.accuracy.math",
    "text": "covt_rewards.accuracy.text",
    "vsp": "covt_rewards.accuracy.vsp",
}
"""Graders by name, with the module that holds the `grade` function."""


def check_grader(name: str, where: str = "grader") -> None:
    """Raise `RewardError` when there is no grader of this name; `where` is what the error calls the value."""
    if name not in GRADERS:
        raise RewardError(f"{where} is {name!r}, which is no grader", f"the graders are {', '.join(GRADERS)}")


def load_grader(name: str) -> Grader:
    """Import the grader's module and return its `grade` function.

    Raises:
        RewardError: for an unknown name.
    """
    check_grader(name)
    return cast("Grader", import_module(GRADERS[name]).grade)
