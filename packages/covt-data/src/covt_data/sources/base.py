"""What a source is: a name, checked options, and splits of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, model_validator

from covt_data.schema import Row


class SourceOptions(BaseModel):
    """Base of the options of a source: frozen, all with defaults, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _lists_from_text(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A command line gives lists as `3,4`."""
        lists = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {
            key: [item for item in value.split(",") if item] if key in lists and isinstance(value, str) else value
            for key, value in data.items()
        }


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, made while they are read, and how many there will be."""

    name: str
    count: int
    rows: Iterable[Row]


@dataclass(frozen=True)
class Source:
    """`splits(options)` yields the splits in order; each is read to its end before the next is asked for.

    `version` is raised whenever the same options give other rows. `inputs(options)` maps the names of the files
    read to their SHA-256.
    """

    name: str
    version: str
    options: type[Any]
    splits: Callable[[Any], Iterable[SplitRows]]
    inputs: Callable[[Any], dict[str, str]] = lambda options: {}
