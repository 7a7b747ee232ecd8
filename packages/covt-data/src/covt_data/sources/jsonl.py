"""Source `jsonl`: your own rows, in JSONL or Parquet, in this package's schema or with a mapping of columns.

Images are paths relative to the file's folder (or to an archive beside it), absolute paths inside that folder, encoded
bytes, or `{bytes, path}`. Steps are `{"type": "text", "text"}` and `{"type": "latent", "images": [path, …]}`.
`columns=question=problem,answer=reward_model.ground_truth` says that the question stands in the column `problem`, and
the answer in the field `ground_truth` of the column `reward_model`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from covt_data.records.field_values import (
    Fields,
    as_list,
    as_object,
    field_names,
    get_id,
    get_label,
    get_pass_rate,
    get_text,
    is_absent,
)
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.image_tags import place_image_tags
from covt_data.records.option_fields import get_options
from covt_data.records.parsed_record import ParsedRecord, ParsedStep
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.sources.column_names import find_column, has_column, look_up, question_of_turns, suggest_columns
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

FIELDS = ("id", "question", "images", "options", "answer", "category", "steps", "metadata", "origin", "pass_rate")


class JsonlOptions(FileOptions):
    """`columns` maps fields to columns (`question=problem,images=image`). `name` is the rows' `source`.

    `tags`: `strict` wants as many `<image>`, `<image1>` or `<img …>` in a question as it has images (or none),
    `front` puts the images first. `grader` judges all rows; `auto` decides by options and answer.
    """

    columns: tuple[str, ...] = ()
    name: str = Field("jsonl", min_length=1)
    split: str = Field("train", min_length=1)
    grader: Literal["auto", "math", "choice", "text", "vsp", "boxes", "comt"] = "auto"
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


def parse(data: Fields, place: RecordLocation, options: JsonlOptions) -> ParsedRecord:
    _check_columns(data, options)
    name = options.column
    fields = {column: look_up(data, column) for column in name.values()}
    fields[name["question"]] = question_of_turns(fields[name["question"]])
    text = get_text(fields, name["question"], Reason.EMPTY_QUESTION)
    refs = get_image_refs(fields[name["images"]], name["images"])
    question, images = place_image_tags(text, refs, options.tags == "front")
    choices = get_options(fields[name["options"]], name["options"])
    written = () if choices else find_options(question)
    return ParsedRecord(
        id=get_id(fields, name["id"], f"{options.name}-{place.split}-{place.line:06d}"),
        category=get_label(fields, name["category"]),
        question=question,
        images=images,
        options=choices,
        written_options=written,
        answer=get_answer(fields, name["answer"], question, choices or written),
        grader=None if options.grader == "auto" else options.grader,
        steps=_steps(fields[name["steps"]], name["steps"]),
        metadata=_metadata(fields, name),
    )


def _check_columns(data: Fields, options: JsonlOptions) -> None:
    """Raise `Rejected` when a record lacks the column of its question or its answer, or has images under another name.

    Images and options are optional, so that a column with another usual name would be lost without a word.
    """
    absent = [field for field in FIELDS if not has_column(data, options.column[field])]
    needed = [field for field in absent if field in ("question", "answer")]
    given = {pair.partition("=")[0] for pair in options.columns}
    for field in ("images", "options"):
        other = find_column(data, field) if field in absent and field not in given else None
        if other is not None and not needed:
            raise Rejected(
                Reason.MISSING_FIELD,
                f"no {field!r}, but {other!r}: read it with columns="
                f"{','.join([*options.columns, f'{field}={other}'])}, or leave it out with columns={field}={field}",
            )
    if not needed:
        return
    missing = " and no ".join(
        repr(options.column[field]) + (f" (the column of {field})" if options.column[field] != field else "")
        for field in needed
    )
    raise Rejected(
        Reason.MISSING_FIELD,
        f"no {missing}; the record's fields are {field_names(data)}: {suggest_columns(data, absent, options.columns)}",
    )


def _steps(value: object, key: str) -> tuple[ParsedStep, ...]:
    entries = as_list(_parsed(value, key))
    if entries is None:
        if is_absent(value):
            return ()
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not a list")
    steps: list[ParsedStep] = []
    for number, entry in enumerate(entries):
        fields = as_object(entry) or {}
        kind = fields.get("type")
        if kind == "text":
            steps.append(ParsedStep(get_text(fields, "text", Reason.EMPTY_STEP)))
        elif kind == "latent":
            helpers = get_image_refs(fields.get("images"), "images")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no images")
            steps.append(ParsedStep(images=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shorten(entry)}")
    return tuple(steps)


def _parsed(value: object, key: str) -> object:
    """Return a value that may be given as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Rejected(Reason.WRONG_TYPE, f"{key} is not JSON: {error}") from None


def _metadata(fields: Fields, name: Mapping[str, str]) -> dict[str, object]:
    """Return the metadata, with origin and pass rate of their own columns or of the metadata itself."""
    value = _parsed(fields[name["metadata"]], name["metadata"])
    known = {} if is_absent(value) else as_object(value)
    if known is None:
        raise Rejected(Reason.WRONG_TYPE, f"{name['metadata']} = {shorten(value)} is not an object")
    if is_absent(fields[name["pass_rate"]]):
        rate = get_pass_rate(known, "pass_rate")
    else:
        rate = get_pass_rate(fields, name["pass_rate"])
    found = {**known, "origin": get_label(fields, name["origin"]) or known.get("origin"), "pass_rate": rate}
    return {key: value for key, value in found.items() if value is not None}


SOURCE = RecordSource(name="jsonl", version="2", options=JsonlOptions, find=find, parse=parse)
