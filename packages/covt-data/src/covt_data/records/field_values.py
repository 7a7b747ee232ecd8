"""Typed reading of the fields of a record. Every function raises `Rejected` that names the field and its value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import cast

from covt_data.rejects import Reason, Rejected, shorten

Fields = Mapping[str, object]
"""A record as JSON or Parquet has it: names and values."""

MAX_INTEGER_DIGITS = 4300
"""Longest integer of a JSON file that is read as a number, which is also Python's own limit."""


class HugeInteger:
    """An integer of a JSON file that has too many digits to be read."""

    def __init__(self, digits: int) -> None:
        self.digits = digits

    def __repr__(self) -> str:
        return f"an integer of {self.digits} digits"


def read_integer(text: str) -> int | HugeInteger:
    """Parse an integer of a JSON file. One that is too long becomes a value that no field accepts."""
    return int(text) if len(text) <= MAX_INTEGER_DIGITS else HugeInteger(len(text.lstrip("-")))


def as_object(value: object) -> dict[str, object] | None:
    """Return a JSON object or a Parquet struct with its type, or None for any other value."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[object] | None:
    """Return a list with its type, or None for any other value."""
    return list(cast("list[object]", value)) if isinstance(value, list | tuple) else None


def is_absent(value: object) -> bool:
    """Whether a field is empty: null, or the NaN that tables write for a missing text."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def field_names(data: Fields) -> str:
    """Return the names of a record's fields for a message, in the record's order."""
    names = ", ".join(map(str, data))
    return names if len(names) <= 300 else f"{names[:300]}…"


def get_text(data: Fields, key: str, empty: Reason | None = None) -> str:
    """Return a field as text; numbers are converted.

    Args:
        data: the fields of a record.
        key: name of the field.
        empty: the reason with which a blank field is rejected; None accepts it.

    Raises:
        Rejected: when the field is missing, blank, no text, or not UTF-8.
    """
    value = data.get(key)
    if is_absent(value):
        has = f"{key} is {value}" if key in data else f"no {key!r}; the record's fields are {field_names(data)}"
        raise Rejected(empty or Reason.MISSING_FIELD, has)
    text = to_text(value)
    if text is None:
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not text")
    if empty and not text.strip():
        raise Rejected(empty, f"{key} is blank")
    return check_utf8(text, key)


def to_text(value: object) -> str | None:
    """Return a text, a finite number or a date as text, or None for any other value."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return str(value) if isinstance(value, str | int | float | Decimal | date) else None


def check_utf8(text: str, key: str) -> str:
    """Return the text; raise `Rejected` when it cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Rejected(Reason.NOT_UTF8, f"{key} has half of a surrogate pair") from None
    return text


def get_id(data: Fields, key: str, default: str) -> str:
    """Return the id of a record, or `default` when it has none."""
    return default if is_absent(data.get(key)) else get_text(data, key)


def get_label(data: Fields, key: str) -> str | None:
    """Return a category or an origin as text, or None when the record has none."""
    value = data.get(key)
    if is_absent(value) or value == "":
        return None
    return check_utf8(str(value), key)


def get_pass_rate(data: Fields, key: str) -> float | None:
    """Return a share of 0 to 1, or None where there is none, which is written as null, NaN or −1.

    Raises:
        Rejected: for a percentage, a text, or any other value.
    """
    value = data.get(key)
    if is_absent(value) or (value == -1 and not isinstance(value, bool)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not a share: write a number from 0 to 1")
    return float(value)
