"""Source `jsonl`: your own rows, in JSONL or Parquet, in this package's schema or with a mapping of columns.

Images are paths relative to the file's folder (or to an archive beside it), or `{bytes, path}` in Parquet. Steps are
`{"type": "text", "text"}` and `{"type": "latent", "images": [path, …]}`. `columns=question=problem,answer=gold` says
that the question stands in the column `problem`, and so on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from covt_data.rejects import Reason, Rejected, shorten
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.parsed_records import (
    ParsedRecord,
    ParsedStep,
    choose_grader,
    get_image_refs,
    get_text,
    place_image_tags,
    strip_boxed,
)
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

FIELDS = ("id", "question", "images", "options", "answer", "category", "steps", "metadata", "origin", "pass_rate")
TAGS = re.compile(r"<image\s*\d*>|<img\b[^>]*>")


class JsonlOptions(FileOptions):
    """`columns` maps fields to columns (`question=problem,images=image`). `name` is the rows' `source`.

    `tags`: `strict` wants as many `<image>`, `<image1>` or `<img …>` in a question as it has images (or none),
    `front` puts the images first. `grader` judges all rows; `auto` decides by options and answer.
    """

    columns: tuple[str, ...] = ()
    name: str = Field("jsonl", min_length=1)
    split: str = Field("train", min_length=1)
    grader: Literal["auto", "math", "choice", "text", "vsp", "boxes"] = "auto"
    tags: Literal["strict", "front"] = "strict"

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            name, _, column = pair.partition("=")
            if name not in FIELDS or not column:
                raise ValueError(f"{pair!r} is not field=column; the fields are {', '.join(FIELDS)}")
        return value

    @property
    def column(self) -> dict[str, str]:
        """Field → column."""
        return {field: field for field in FIELDS} | dict(pair.split("=", 1) for pair in self.columns)


def find(path: Path, options: JsonlOptions) -> DatasetFiles:
    files = find_record_files(path, (".jsonl", ".parquet"), "JSONL or Parquet files")
    folder = path if path.is_dir() else path.parent
    archives = find_archives(folder)
    return DatasetFiles(group_by_split(files, options.split), None if archives else folder, archives)


def parse(data: dict[str, Any], place: RecordLocation, options: JsonlOptions) -> ParsedRecord:
    fields = {field: data.get(column) for field, column in options.column.items()}
    pictures = get_image_refs(fields["images"], "images")
    question = get_text(fields, "question", Reason.EMPTY_QUESTION)
    choices = _texts(fields["options"], "options")
    answer = strip_boxed(get_text(fields, "answer", Reason.EMPTY_ANSWER))
    return ParsedRecord(
        id=get_text(fields, "id") if fields["id"] is not None else f"{options.name}-{place.split}-{place.line:06d}",
        category=None if fields["category"] is None else str(fields["category"]),
        question=place_image_tags(question, len(pictures), TAGS, options.tags == "front"),
        pictures=pictures,
        options=choices,
        answer=answer,
        grader=choose_grader(answer, choices) if options.grader == "auto" else options.grader,
        steps=_steps(fields["steps"]),
        metadata=_metadata(fields),
    )


def _texts(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not a list of texts")
    return tuple(str(item) for item in value)


def _steps(value: object) -> tuple[ParsedStep, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise Rejected(Reason.WRONG_TYPE, f"steps = {shorten(value)} is not a list")
    steps: list[ParsedStep] = []
    for number, entry in enumerate(value):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "text":
            steps.append(ParsedStep(get_text(entry, "text", Reason.EMPTY_STEP)))
        elif kind == "latent":
            helpers = get_image_refs(entry.get("images"), "images")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no images")
            steps.append(ParsedStep(pictures=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shorten(entry)}")
    return tuple(steps)


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    value = fields["metadata"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Rejected(Reason.WRONG_TYPE, f"metadata is not JSON: {error}") from None
    if value is not None and not isinstance(value, dict):
        raise Rejected(Reason.WRONG_TYPE, f"metadata = {shorten(value)} is not an object")
    own = {key: fields[key] for key in ("origin", "pass_rate") if fields[key] is not None}
    return {**(value or {}), **own}


SOURCE = RecordSource(name="jsonl", version="1", options=JsonlOptions, find=find, parse=parse)
