"""Source `jsonl`: your own rows, in JSONL or Parquet, in this package's schema or with a mapping of columns.

Pictures are paths relative to the file's folder (or to an archive beside it), or `{bytes, path}` in Parquet. Steps are
`{"type": "text", "text"}` and `{"type": "latent", "images": [path, …]}`. `columns=question=problem,answer=gold` says
that the question stands in the column `problem`, and so on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from covt_data.rejects import Reason, Rejected, shown
from covt_data.sources.base import FileOptions, Place, Published, RecordSource
from covt_data.sources.drafts import Draft, DraftStep, judged_by, names_of, tagged, text_of, unboxed
from covt_data.sources.published import archives_in, by_split, record_files

FIELDS = ("id", "question", "images", "options", "answer", "category", "steps", "metadata", "origin", "pass_rate")
TAGS = re.compile(r"<image\s*\d*>|<img\b[^>]*>")


class JsonlOptions(FileOptions):
    """`columns` maps fields to columns (`question=problem,images=image`). `name` is the rows' `source`.

    `tags`: `strict` wants as many `<image>`, `<image1>` or `<img …>` in a question as it has pictures (or none),
    `front` puts the pictures first. `grader` judges all rows; `auto` decides by options and answer.
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


def find(path: Path, options: JsonlOptions) -> Published:
    files = record_files(path, (".jsonl", ".parquet"), "JSONL or Parquet files")
    folder = path if path.is_dir() else path.parent
    archives = archives_in(folder)
    return Published(by_split(files, options.split), None if archives else folder, archives)


def parse(data: dict[str, Any], place: Place, options: JsonlOptions) -> Draft:
    fields = {field: data.get(column) for field, column in options.column.items()}
    pictures = names_of(fields["images"], "images")
    question = text_of(fields, "question", Reason.EMPTY_QUESTION)
    choices = _texts(fields["options"], "options")
    answer = unboxed(text_of(fields, "answer", Reason.EMPTY_ANSWER))
    return Draft(
        id=text_of(fields, "id") if fields["id"] is not None else f"{options.name}-{place.split}-{place.line:06d}",
        category=None if fields["category"] is None else str(fields["category"]),
        question=tagged(question, len(pictures), TAGS, options.tags == "front"),
        pictures=pictures,
        options=choices,
        answer=answer,
        grader=judged_by(answer, choices) if options.grader == "auto" else options.grader,
        steps=_steps(fields["steps"]),
        metadata=_metadata(fields),
    )


def _texts(value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shown(value)} is not a list of texts")
    return tuple(str(item) for item in value)


def _steps(value: object) -> tuple[DraftStep, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise Rejected(Reason.WRONG_TYPE, f"steps = {shown(value)} is not a list")
    steps: list[DraftStep] = []
    for number, entry in enumerate(value):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "text":
            steps.append(DraftStep(text_of(entry, "text", Reason.EMPTY_STEP)))
        elif kind == "latent":
            helpers = names_of(entry.get("images"), "images")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no images")
            steps.append(DraftStep(pictures=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shown(entry)}")
    return tuple(steps)


def _metadata(fields: dict[str, Any]) -> dict[str, Any]:
    value = fields["metadata"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Rejected(Reason.WRONG_TYPE, f"metadata is not JSON: {error}") from None
    if value is not None and not isinstance(value, dict):
        raise Rejected(Reason.WRONG_TYPE, f"metadata = {shown(value)} is not an object")
    own = {key: fields[key] for key in ("origin", "pass_rate") if fields[key] is not None}
    return {**(value or {}), **own}


SOURCE = RecordSource(name="jsonl", version="1", options=JsonlOptions, find=find, parse=parse)
