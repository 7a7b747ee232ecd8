"""Rewards by name. To add one:

1. Write `rewards/NAME.py` with a callable `reward(group: Group) -> list[RewardResult]`, one result per rollout.
   A class gets its settings as fields of a frozen dataclass, a function as further keyword arguments.
2. Add one line to `BUILTIN` below. Nothing is imported before its name is asked for.
3. Outside this package: name `./file.py:function`, or register it in the entry-point group `covt.rewards`. Such a
   reward may return plain numbers in place of `RewardResult`s.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group, Reward, RewardResult
from covt_rewards.user_code import check_callable, is_file_reference, load_from_file, report_import_errors

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILTIN: Mapping[str, str] = {
    "accuracy": "covt_rewards.accuracy.accuracy_reward:AccuracyReward",
    "format": "covt_rewards.rewards.format:FormatReward",
    "length": "covt_rewards.rewards.length:LengthReward",
    "necessity": "covt_rewards.rewards.necessity:NecessityReward",
    "reasoning": "covt_rewards.rewards.reasoning:ReasoningReward",
    "usage": "covt_rewards.rewards.usage:UsageReward",
    "vision_reasoner": "covt_rewards.rewards.vision_reasoner:VisionReasonerReward",
}
ENTRY_POINTS = "covt.rewards"


@dataclass(frozen=True, slots=True)
class ConfiguredReward:
    """A reward as a run uses it: its name in logs, its weight in the sum, and the callable."""

    name: str
    weight: float
    reward: Reward


@dataclass(frozen=True, slots=True)
class UserReward:
    """A reward from outside this package: plain numbers that it returns become `RewardResult`s.

    Attributes:
        name: as errors call it.
        function: maps a group to one number or `RewardResult` per rollout.
    """

    name: str
    function: Callable[[Group], object]

    def __call__(self, group: Group) -> list[RewardResult]:
        """Call the function.

        Raises:
            RewardError: when it does not return a list of numbers or `RewardResult`s.
        """
        remedy = "return a list with one number or RewardResult per rollout"
        given = self.function(group)
        try:
            items = list(cast("Iterable[object]", given))
        except TypeError as error:
            raise RewardError(f"reward {self.name!r} returned {type(given).__name__}, not a list", remedy) from error
        results: list[RewardResult] = []
        for i, item in enumerate(items):
            if isinstance(item, RewardResult):
                results.append(item)
            elif isinstance(item, str) or not hasattr(item, "__float__"):
                raise RewardError(f"reward {self.name!r} returned a {type(item).__name__} at {i}", remedy)
            else:
                results.append(RewardResult(float(cast("float", item))))  # also numpy's and torch's scalars
        return results


def _find_entry_points(name: str = "") -> Iterable[EntryPoint]:
    """Find the entry points of rewards in installed packages; with a name, only those of this name."""
    # importlib.metadata takes as long to import as all of this package.
    from importlib import metadata

    points = metadata.entry_points(group=ENTRY_POINTS)
    return [point for point in points if not name or point.name == name]


def available() -> dict[str, str]:
    """List all names that `load` knows, with where each comes from, sorted."""
    third_party = {point.name: point.value for point in _find_entry_points()}
    return dict(sorted({**third_party, **BUILTIN}.items()))


def load(name: str) -> Callable[..., Any]:
    """Import the class or function behind a name or `path/to/file.py:function`.

    Raises:
        RewardError: for an unknown name (with the nearest one), a missing file or a missing function.
    """
    if is_file_reference(name):
        return load_from_file(name)
    target = BUILTIN.get(name)
    if target is None:
        return _load_entry_point(name)
    module, _, attribute = target.partition(":")
    return check_callable(getattr(import_module(module), attribute), name)


def _load_entry_point(name: str) -> Callable[..., Any]:
    for point in _find_entry_points(name):
        with report_import_errors(f"reward {name!r} ({point.value})", "correct or remove the package it comes from"):
            found = point.load()
        return check_callable(found, name)
    known = list(available())
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    remedy = f"{hint}the rewards are {', '.join(known)}; or ./file.py:function"
    raise RewardError(f"there is no reward {name!r}", remedy)


def make(name: str, settings: Mapping[str, object] | None = None) -> Reward:
    """Load a reward and give it its settings.

    Args:
        name: a registered name or `path/to/file.py:function`.
        settings: fields of the class, or keyword arguments of the function.

    Raises:
        RewardError: for an unknown name, or a setting that is unknown, missing or of the wrong type.
    """
    return _configure(name, load(name), settings or {})


def _configure(name: str, target: Callable[..., Any], settings: Mapping[str, object]) -> Reward:
    known = setting_names(target)
    for key in settings:
        if known is not None and key not in known:
            has = f"its settings are {', '.join(known)}" if known else "it has no settings"
            raise RewardError(f"reward {name!r} has no setting {key!r}", has)
    _check_required(name, target, settings)
    if inspect.isclass(target):
        _check_types(name, target, settings)
        reward = cast("Callable[[Group], Sequence[RewardResult]]", target(**settings))
    else:
        reward = partial(target, **settings) if settings else target
    return reward if name in BUILTIN else UserReward(name, reward)


def _check_required(name: str, target: Callable[..., Any], settings: Mapping[str, object]) -> None:
    """Refuse a function that takes no group, and settings without a default that are not given."""
    parameters = list(inspect.signature(target).parameters.values())
    if not inspect.isclass(target):
        if not parameters or parameters[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise RewardError(f"reward {name!r} takes no group", "define it as function(group) -> list of numbers")
        parameters = parameters[1:]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in parameters:
        needed = parameter.default is parameter.empty and parameter.kind not in optional
        if needed and parameter.name not in settings:
            key = parameter.name
            raise RewardError(f"reward {name!r} needs the setting {key!r}", f"give {key!r} a value or a default")


def _check_types(name: str, target: type, settings: Mapping[str, object]) -> None:
    """Refuse a setting of the wrong plain type, or one that is not among a setting's named choices."""
    if not is_dataclass(target):
        return
    kinds = get_type_hints(target)
    for key, value in settings.items():
        kind = kinds[key]
        choices: tuple[object, ...] = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and value not in choices:
            raise RewardError(f"{name}.{key} is {value!r}", f"choose one of {', '.join(map(str, choices))}")
        plain = [each for each in get_args(kind) or (kind,) if each in _PLAIN]
        may_be_none = value is None and type(None) in get_args(kind)
        if len(plain) == 1 and not may_be_none and not _is_a(value, plain[0]):
            raise RewardError(f"{name}.{key} is {value!r}", f"give {_PLAIN[plain[0]]}")
        records = tuple(each for each in get_args(kind) or (kind,) if isinstance(each, type))
        if any(is_dataclass(each) for each in records) and not isinstance(value, records):
            raise RewardError(f"{name}.{key} is {value!r}", f"it is no plain value; see covt-rewards explain {name}")


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(cast("float", value))
    return isinstance(value, kind)


def setting_names(target: Callable[..., Any]) -> tuple[str, ...] | None:
    """Return the names of a reward's settings; None when it takes any (`**settings`)."""
    if inspect.isclass(target) and is_dataclass(target):
        return tuple(f.name for f in fields(target) if f.init)
    parameters = list(inspect.signature(target).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in (parameters if inspect.isclass(target) else parameters[1:]))


def parse_rewards(
    spec: str | Iterable[str],
    settings: Mapping[str, Mapping[str, object]] | None = None,
    common: Mapping[str, object] | None = None,
) -> list[ConfiguredReward]:
    """Read `format,accuracy=1.0,necessity` into rewards with weights (default 1).

    Args:
        spec: comma-separated names, or a list of them, each with an optional `=weight`.
        settings: for each reward by name. Those of `accuracy` also decide what counts as right for `necessity`.
        common: settings for every reward that has them, such as `latent` or `grader`.

    Raises:
        RewardError: for unknown names or settings, a name given twice, a weight that is no finite number.
    """
    items = [item.strip() for item in (spec.split(",") if isinstance(spec, str) else spec)]
    items = [item for item in items if item]
    if not items:
        raise RewardError("no reward is named", f"name some of {', '.join(available())}")
    rewards: list[ConfiguredReward] = []
    by_name = dict(settings or {})
    split = [_split_weight(item) for item in items]
    for key in by_name:
        if key not in {name for name, _ in split} | {"accuracy"}:
            raise RewardError(f"settings are given for {key!r}, which is not among the rewards", f"add it to {spec!r}")
    for name, weight in split:
        shown = name.rpartition(":")[2] if is_file_reference(name) else name
        if any(reward.name == shown for reward in rewards):
            raise RewardError(f"reward {shown!r} is named twice", "name each reward once")
        target = load(name)
        reward = _configure(name, target, _settings(name, target, by_name, common or {}))
        rewards.append(ConfiguredReward(shown, weight, reward))
    return rewards


def _settings(
    name: str,
    target: Callable[..., Any],
    by_name: Mapping[str, Mapping[str, object]],
    common: Mapping[str, object],
) -> dict[str, object]:
    known = setting_names(target) or ()
    own = {key: value for key, value in common.items() if key in known} | dict(by_name.get(name, {}))
    if "accuracy" in known and "accuracy" not in own and name in BUILTIN:
        accuracy = load("accuracy")
        own["accuracy"] = _configure("accuracy", accuracy, _settings("accuracy", accuracy, by_name, common))
    return own


def _split_weight(item: str) -> tuple[str, float]:
    name, equals, number = item.rpartition("=")
    if not equals:
        return item, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise RewardError(f"the weight in {item!r} is {number!r}", "give a number, such as accuracy=1.0")
    return name.strip(), weight
