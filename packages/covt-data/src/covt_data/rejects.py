"""Reasons for rejecting a record. Each rejection becomes one line of `rejected.jsonl` with reason, file and line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

REJECTED_NAME = "rejected.jsonl"


class Reason(StrEnum):
    """The codes in `rejected.jsonl` and in the manifest."""

    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    LINE_TOO_LONG = "line_too_long"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    EMPTY_QUESTION = "empty_question"
    EMPTY_ANSWER = "empty_answer"
    ANSWER_BRACES = "answer_braces"
    UNKNOWN_STEP_TYPE = "unknown_step_type"
    EMPTY_STEP = "empty_step"
    IMAGE_COUNT = "image_count"
    DUPLICATE_ID = "duplicate_id"
    BAD_GOLD = "bad_gold"
    CONTROL_TOKEN = "control_token"
    BAD_ROW = "bad_row"

    IMAGE_MISSING = "image_missing"
    HELPER_IMAGE_MISSING = "helper_image_missing"
    IMAGE_OUTSIDE = "image_outside"
    IMAGE_NOT_A_FILE = "image_not_a_file"
    IMAGE_EMPTY = "image_empty"
    IMAGE_TRUNCATED = "image_truncated"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_WRONG_SUFFIX = "image_wrong_suffix"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_BOMB = "image_bomb"
    IMAGE_TOO_NARROW = "image_too_narrow"

    ARCHIVE_OUTSIDE = "archive_outside"
    ARCHIVE_LINK = "archive_link"
    ARCHIVE_DEVICE = "archive_device"
    ARCHIVE_BOMB = "archive_bomb"
    ARCHIVE_DUPLICATE = "archive_duplicate"
    ARCHIVE_BAD_NAME = "archive_bad_name"
    ARCHIVE_NOT_AN_IMAGE = "archive_not_an_image"
    ARCHIVE_UNREADABLE = "archive_unreadable"


class Rejected(Exception):  # noqa: N818 - an outcome of one record, not an error of the run
    """A record that cannot be used. `detail` names the offending value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Rejection:
    """One line of `rejected.jsonl`.

    `line` counts from 1. It is a line of a JSONL file, a row of a Parquet file, or a member of an archive.
    """

    file: str
    line: int
    reason: Reason
    detail: str
    id: str | None = None

    def to_json(self) -> str:
        # Undecodable file names hold lone surrogates: ASCII JSON can carry them.
        return json.dumps(asdict(self), ensure_ascii=True) + "\n"


def shorten(value: object, limit: int = 80) -> str:
    """Return the `repr` of a value for a message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
