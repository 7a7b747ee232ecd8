"""The types of a source: its name, its options, and either generated splits of rows or files of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from covt_data.records.field_values import Fields
from covt_data.records.parsed_record import ParsedRecord
from covt_data.schema import Row


class SourceOptions(BaseModel):
    """Base of all source options: frozen, every option has a default, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _lists_from_text(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Split lists that a command line gives as `3,4`, or as the number `4`."""
        lists = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {
            key: [item for item in str(value).split(",") if item]
            if key in lists and isinstance(value, str | int | float)
            else value
            for key, value in data.items()
        }


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, generated lazily, and their number."""

    name: str
    count: int
    rows: Iterable[Row]


class FileOptions(SourceOptions):
    """Options of all sources that read files.

    `path` is a folder, a file or a hub id. `limit` records of each split are read. More than `max_rejected` of a
    split's records rejected is an error. The filters keep records of the given `categories` and `origins` (the
    dataset a record came from), with a pass rate between the bounds (`unrated` says what becomes of those without one),
    with so many tokens of `tokenizer` (question, steps and answer), with images of so many pixels each.

    A record whose gold answer its grader cannot read is rejected, or stops the run with `on_bad_gold=error`, once all
    are known. A record that lacks a helper image is rejected; `missing_helpers=drop_step` leaves out the image, and the
    step if it has no other.
    """

    path: str = ""
    limit: int | None = Field(None, ge=1)
    max_rejected: float = Field(0.1, ge=0, le=1)
    on_bad_gold: Literal["reject", "error"] = "reject"
    missing_helpers: Literal["reject", "drop_step"] = "reject"
    wrong_suffix: Literal["reject", "keep"] = "reject"
    max_image_bytes: int = Field(64 << 20, ge=1)
    max_image_pixels: int = Field(64_000_000, ge=1, le=89_000_000)
    categories: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    min_pass_rate: float | None = Field(None, ge=0, le=1)
    max_pass_rate: float | None = Field(None, ge=0, le=1)
    unrated: Literal["keep", "drop"] = "drop"
    tokenizer: str = ""
    min_tokens: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=1)
    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)
    text_only: Literal["keep", "drop", "only"] = "keep"
    duplicates: Literal["drop", "keep", "similar"] = "drop"

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> FileOptions:
        if (self.min_tokens is not None or self.max_tokens is not None) and not self.tokenizer:
            raise ValueError("min_tokens and max_tokens need tokenizer, the folder or hub id of one")
        return self


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset: the record files of each split, in order, and the location of the images.

    `images` is a folder, or None when `archives` have to be unpacked first (or every image is inside its record).
    `prefixes` are folders tried before an image's name, `suffixes` endings tried behind it.
    """

    splits: dict[str, tuple[Path, ...]]
    images: Path | None
    archives: tuple[Path, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    suffixes: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class RecordLocation:
    """The location of a record, from which ids and categories are made. `line` counts from 1."""

    split: str
    path: Path
    line: int


@dataclass(frozen=True)
class RecordSource:
    """`find(folder or file, options)` finds the files; `parse(fields, location, options)` parses a record.

    `parse` raises `Rejected`, and is called in several processes. `hub_id` is what an empty `path` means, and
    `patterns` the files of it that are needed.
    """

    name: str
    version: str
    options: type[Any]
    find: Callable[[Path, Any], DatasetFiles]
    parse: Callable[[Fields, RecordLocation, Any], ParsedRecord]
    hub_id: str = ""
    patterns: tuple[str, ...] = ()
    folder_option: str = "path"


@dataclass(frozen=True)
class Source:
    """`splits(options)` yields the splits in order; each is read to its end before the next one starts.

    `version` is raised whenever the same options give other rows. `inputs(options)` maps the names of the files
    read to their SHA-256. `folder_option` is the option that names a folder to read, if there is one.
    """

    name: str
    version: str
    options: type[Any]
    splits: Callable[[Any], Iterable[SplitRows]]
    inputs: Callable[[Any], dict[str, str]] = lambda options: {}
    folder_option: str | None = None
