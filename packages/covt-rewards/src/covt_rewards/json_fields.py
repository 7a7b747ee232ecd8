"""Typed reading of JSON fields. Every function raises `RewardError` that names the field as `where`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import cast

from covt_rewards.reward_errors import RewardError


def kind(value: object) -> str:
    """Name the type of a JSON value for an error; None counts as missing."""
    return "missing" if value is None else type(value).__name__


def mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise RewardError(f"{where} is {kind(value)}, not an object", "give a JSON object")
    return cast("Mapping[str, object]", value)


def items(value: object, where: str) -> Sequence[object]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RewardError(f"{where} is {kind(value)}, not a list", "give a list")
    return cast("Sequence[object]", value)


def string(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RewardError(f"{where} is {kind(value)}, not a string", "give text")
    return value


def integer(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise RewardError(f"{where} is {kind(value)}, not an integer", "give a whole number")
    return value


def parent(value: object, where: str) -> str | int | None:
    return value if isinstance(value, str) else integer(value, where)


def options(value: object, where: str) -> tuple[str, ...]:
    """Read the texts of options from a list of texts or numbers, or from an object with their letters."""
    if isinstance(value, Mapping):
        record = cast("Mapping[str, object]", value)
        value = [record[letter] for letter in sorted(record)]
    return tuple(_text(item, f"{where}[{i}]") for i, item in enumerate(items(value, where)))


def gold_answer(value: object, where: str) -> str:
    """Read a gold answer: text, a number, a list of texts such as several letters, or JSON of boxes as text."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    if not isinstance(value, list | tuple):
        return _text(value, where)
    several = cast("Sequence[object]", value)
    if not several:
        raise RewardError(f"{where} is an empty list", "give the gold answer as text")
    if isinstance(several[0], Mapping | list) or (len(several) > 1 and isinstance(several[0], int | float)):
        return json.dumps(several)
    return ", ".join(_text(item, f"{where}[{i}]") for i, item in enumerate(several))


def _text(value: object, where: str) -> str:
    """Read text, or a number or a boolean as text."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RewardError(f"{where} is {value}, which is no answer", "give text or a finite number")
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise RewardError(f"{where} is {kind(value)}, not a string", "give text")
    return value


def integers(value: object, where: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for i, item in enumerate(items(value, where)):
        number = integer(item, f"{where}[{i}]")
        if number is None:
            raise RewardError(f"{where}[{i}] is missing", "give a whole number")
        numbers.append(number)
    return tuple(numbers)


def floats(value: object, where: str) -> tuple[float, ...]:
    numbers: list[float] = []
    for i, item in enumerate(items(value, where)):
        if not isinstance(item, int | float):
            raise RewardError(f"{where}[{i}] is {kind(item)}, not a number", "give a number")
        numbers.append(float(item))
    return tuple(numbers)


def metadata(value: object, where: str) -> Mapping[str, object]:
    """Read an object, or a string of JSON that holds one, as prepared Parquet rows have it."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise RewardError(f"{where} is not JSON: {error}", "give an object or its JSON") from error
    return mapping(value, where)
