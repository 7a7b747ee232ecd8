"""Reading boxes and points from JSON: `[{"bbox_2d": […], "point_2d": […]}, …]`, one object, or bare lists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

MAX_CHARACTERS = 200_000
BOX_NAMES = ("bbox_2d", "bbox", "box")
POINT_NAMES = ("point_2d", "point")

Box = tuple[float, float, float, float]
Point = tuple[float, float]

_FENCE = re.compile(r"```(?:json|python)?\s{0,9}(.{0,200000}?)```", re.DOTALL)
_BARE = re.compile(r"-?\d{1,9}(?:\.\d{1,9})?(?:\s{0,9},\s{0,9}-?\d{1,9}(?:\.\d{1,9})?){3}")


@dataclass(frozen=True, slots=True)
class LocatedObject:
    """One object: box (x0, y0, x1, y1) and point (x, y) in pixels, at least one of them."""

    box: Box | None
    point: Point | None


def read_objects(text: str) -> list[LocatedObject] | None:
    """Read the objects of a text that is nothing but JSON; None for anything else.

    The JSON is a list of objects, one object, a list of four numbers (a box) or two (a point), or a list of these.
    """
    try:
        data: object = json.loads(text[:MAX_CHARACTERS])
    except (ValueError, RecursionError):
        return None
    return _read(data)


def last_fence(text: str) -> str | None:
    """The content of the last whole fence of a text, if it is nothing but objects."""
    fences = _FENCE.findall(text[-MAX_CHARACTERS:])
    return fences[-1] if fences and read_objects(fences[-1]) else None


def find_objects(text: str) -> list[LocatedObject] | None:
    """Read the objects of a text that may be in a fence, behind a few words, or without brackets."""
    text = text.strip()
    objects = read_objects(text)
    if objects is not None:
        return objects
    if match := _FENCE.search(text):
        return read_objects(match.group(1))
    if _BARE.fullmatch(text.strip("()")):
        return read_objects(f"[{text.strip('()')}]")
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    ends = max(text.rfind("]"), text.rfind("}"))
    if not starts or ends <= min(starts) or min(starts) > 200:
        return None
    return read_objects(text[min(starts) : ends + 1])


def _read(data: object) -> list[LocatedObject] | None:
    if isinstance(data, Mapping):
        data = [cast("Mapping[str, object]", data)]
    if not isinstance(data, list):
        return None
    items = cast("list[object]", data)
    bare = _read_list(items)
    if bare is not None:
        return [bare]
    objects: list[LocatedObject] = []
    for item in items:
        found = _read_record(cast("Mapping[str, object]", item)) if isinstance(item, Mapping) else _read_list(item)
        if found is None:
            return None
        objects.append(found)
    return objects


def _read_record(record: Mapping[str, object]) -> LocatedObject | None:
    values = [next((record[name] for name in names if name in record), None) for names in (BOX_NAMES, POINT_NAMES)]
    box, point = _read_numbers(values[0], 4), _read_numbers(values[1], 2)
    is_broken = any(value is not None and read is None for value, read in zip(values, (box, point), strict=True))
    if is_broken or (box is None and point is None):
        return None
    return LocatedObject(
        None if box is None else (box[0], box[1], box[2], box[3]), None if point is None else (point[0], point[1])
    )


def _read_list(item: object) -> LocatedObject | None:
    """Read four numbers as a box and two as a point."""
    box, point = _read_numbers(item, 4), _read_numbers(item, 2)
    if box is not None:
        return LocatedObject((box[0], box[1], box[2], box[3]), None)
    return None if point is None else LocatedObject(None, (point[0], point[1]))


def _read_numbers(value: object, count: int) -> Sequence[float] | None:
    if not isinstance(value, list):
        return None
    values = cast("list[object]", value)
    if len(values) != count:
        return None
    numbers: list[float] = []
    for number in values:
        # Larger than any image, and safe from overflow in the arithmetic below.
        if not isinstance(number, int | float) or not -1e9 < number < 1e9:
            return None
        numbers.append(float(number))
    return numbers
