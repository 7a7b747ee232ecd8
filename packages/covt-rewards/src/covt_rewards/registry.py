"""Names to rewards: built-in, third-party (entry-point group `covt.rewards`), or a function in a file.

A reward is a callable `reward(group) -> one RewardResult per rollout`. A class is instantiated with its settings; a
function takes them as keyword arguments. Nothing is imported before its name is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Reward

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


def available() -> dict[str, str]:
    """All names that `load` knows, with where each comes from, sorted."""
    third_party = {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}
    return dict(sorted({**third_party, **BUILTIN}.items()))


def load(name: str) -> Callable[..., Any]:
    """The class or function behind a name or `path/to/file.py:function`.

    Raises:
        RewardError: for an unknown name (with the nearest one), a missing file or a missing function.
    """
    if ".py:" in name:
        return _from_file(name)
    target = BUILTIN.get(name)
    if target is None:
        for point in metadata.entry_points(group=ENTRY_POINTS, name=name):
            with _importing(f"reward {name!r} ({point.value})", "mend or remove the package it comes from"):
                found = point.load()
            return _callable(found, name)
        known = list(available())
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RewardError(
            f"there is no reward {name!r}", f"{hint}the rewards are {', '.join(known)}; or ./file.py:function"
        )
    module, _, attribute = target.partition(":")
    return _callable(getattr(import_module(module), attribute), name)


@contextmanager
def _importing(what: str, remedy: str) -> Generator[None]:
    """Errors of foreign code at its import, as the user's."""
    try:
        yield
    except Exception as error:
        raise RewardError(f"{what} cannot be imported: {type(error).__name__}: {error}", remedy) from error


def _callable(found: object, name: str) -> Callable[..., Any]:
    if not callable(found):
        raise RewardError(f"{name!r} is {type(found).__name__}, which cannot be called", "name a function or a class")
    return found


def _from_file(name: str) -> Callable[..., Any]:
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise RewardError(f"there is no file {file}", "give ./file.py:function with an existing file")
    spec = util.spec_from_file_location(f"covt_rewards_user_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py path always has a loader
    module = util.module_from_spec(spec)
    with _importing(file, "mend the file"):
        spec.loader.exec_module(module)
    if not hasattr(module, attribute):
        raise RewardError(f"{file} has no {attribute!r}", "name a function or class that the file defines")
    return _callable(getattr(module, attribute), name)


def make(name: str, settings: Mapping[str, object] | None = None) -> Reward:
    """A ready reward: `load(name)` with its settings.

    Raises:
        RewardError: also for a setting the reward does not have.
    """
    target = load(name)
    given = dict(settings or {})
    known = setting_names(target)
    for key in given:
        if known is not None and key not in known:
            has = f"its settings are {', '.join(known)}" if known else "it has no settings"
            raise RewardError(f"reward {name!r} has no setting {key!r}", has)
    if inspect.isclass(target):
        _check_types(name, target, given)
        return cast("Reward", target(**given))
    return cast("Reward", partial(target, **given) if given else target)


def _check_types(name: str, target: type, given: Mapping[str, object]) -> None:
    """Refuse a setting of the wrong plain type, or one that is not among a setting's named choices."""
    if not is_dataclass(target):
        return
    kinds = get_type_hints(target)
    for key, value in given.items():
        kind = kinds[key]
        choices: tuple[object, ...] = get_args(kind) if get_origin(kind) is Literal else ()
        if choices and value not in choices:
            raise RewardError(f"{name}.{key} is {value!r}", f"choose one of {', '.join(map(str, choices))}")
        if kind in _PLAIN and not _is_a(value, kind):
            raise RewardError(f"{name}.{key} is {value!r}", f"give {_PLAIN[kind]}")
        records = tuple(each for each in get_args(kind) or (kind,) if isinstance(each, type))
        if any(is_dataclass(each) for each in records) and not isinstance(value, records):
            raise RewardError(f"{name}.{key} is {value!r}", f"it is no plain value; see covt-rewards explain {name}")


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and math.isfinite(cast("float", value))
    return isinstance(value, kind)


def setting_names(target: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of a reward's settings; None when it takes any (`**settings`)."""
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
        settings: for each reward by name; those of `accuracy` also say what `necessity` holds for right.
        common: settings given to every reward that has them, such as `latent` or `grader`.

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
        shown = name.rpartition(":")[2] if ".py:" in name else name
        if any(reward.name == shown for reward in rewards):
            raise RewardError(f"reward {shown!r} is named twice", "name each reward once")
        rewards.append(ConfiguredReward(shown, weight, make(name, _settings(name, by_name, common or {}))))
    return rewards


def _settings(
    name: str, by_name: Mapping[str, Mapping[str, object]], common: Mapping[str, object]
) -> dict[str, object]:
    known = setting_names(load(name)) or ()
    own = {key: value for key, value in common.items() if key in known} | dict(by_name.get(name, {}))
    if "accuracy" in known and "accuracy" not in own and BUILTIN.get(name):
        own["accuracy"] = make("accuracy", _settings("accuracy", by_name, common))
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
