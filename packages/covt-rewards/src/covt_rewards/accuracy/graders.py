"""What every grader gives and the table of graders. A grader is one file and one function."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import cast

from covt_rewards.expressions.latex import strip_text_commands
from covt_rewards.expressions.respell import NUMBER_WORDS
from covt_rewards.reward_errors import RewardError
from covt_rewards.tasks.vsp_plan import PlanVariant
from covt_rewards.types import Group


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's verdict on one completion: `score` in 0..1, named parts, and why."""

    score: float
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Task:
    """What a grader knows of the prompt, and its settings.

    Attributes:
        gold: the gold answer, without a `\boxed{…}` or `<answer>` around it.
        marked: whether there was one.
        options: texts of a multiple-choice question.
        metadata: the group's.
        lenient: read answers that carry no marker.
        vsp_rule: `stop_at_goal` or `end_on_goal`.
        time_limit: seconds for one completion, for graders that compute (math).
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


Grader = Callable[[Task, Sequence[str]], list[Grade]]
"""Texts of completions in, one grade each out. Raises `GoldError` for a gold answer it cannot read, nothing else."""

_MODULES = {
    "boxes": "covt_rewards.accuracy.boxes",
    "choice": "covt_rewards.accuracy.choice",
    "math": "covt_rewards.accuracy.math",
    "text": "covt_rewards.accuracy.text",
    "vsp": "covt_rewards.accuracy.vsp",
}
GRADERS = tuple(_MODULES)


def load_grader(name: str) -> Grader:
    """The `grade` function of the grader's module, imported on first use.

    Raises:
        RewardError: for an unknown name.
    """
    if name not in _MODULES:
        raise RewardError(f"there is no grader {name!r}", f"the graders are {', '.join(GRADERS)}")
    return cast("Grader", import_module(_MODULES[name]).grade)


def is_letter(gold: str) -> bool:
    """Whether a gold answer is one capital letter, bare or in brackets: a choice even where no options are given."""
    return re.fullmatch(r"\s*\(?[A-Z]\)?\s*", gold) is not None


_CONSONANTS = re.compile(r"[b-df-hj-np-tv-z]+", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]+(?:[\s'’-]+[^\W\d_]+)*[.!]?")


def is_words(gold: str) -> bool:
    """Whether a gold answer is plain words, such as `right triangle`: no product of variables, no name like `ABC`."""
    plain = strip_text_commands(gold).strip(" $")
    if plain.casefold() in ("no", *NUMBER_WORDS):
        return plain.casefold() == "no"
    return _WORDS.fullmatch(plain) is not None and any(
        len(word) >= 3 and not word.isupper() and not _CONSONANTS.fullmatch(word) for word in plain.split()
    )


def choose_grader(group: Group, gold: str, default: str = "") -> str:
    """The group's own grader, else `default`, else the one its options, metadata and gold answer ask for.

    Args:
        gold: the gold answer without a marker around it.
    """
    if group.grader or default:
        return group.grader or default
    if group.options:
        return "choice"
    if "rows" in group.metadata:
        return "vsp"
    if gold.lstrip().startswith("[") and "bbox_2d" in gold:
        try:
            json.loads(gold)
        except ValueError:
            return "math"
        return "boxes"
    if is_letter(gold):
        return "choice"
    return "text" if is_words(gold) else "math"
