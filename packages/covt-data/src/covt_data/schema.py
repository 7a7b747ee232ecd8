"""The one row type of every dataset: reasoning rows (supervised) and prompt rows (RL, evaluation).

Rows are frozen pydantic models; on disk they are Parquet with the image bytes inside (`covt_data.store.arrow_rows`).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from covt_data.data_errors import DataError

SCHEMA_VERSION = 1
IMAGE_TAG = "<image>"

Grader = Literal["math", "choice", "text", "vsp", "boxes", "comt"]


class Record(BaseModel):
    """Base of all records: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Encoded = Annotated[bytes, Field(min_length=1, repr=False)]


class Image(Record):
    """An encoded image (PNG, JPEG, …). Only the bytes are read; `path` is a label for people."""

    bytes: Encoded
    path: str = ""

    @field_validator("path", mode="before")
    @classmethod
    def _no_null_path(cls, value: object) -> object:
        return "" if value is None else value


class Step(Record):
    """One reasoning step: text, or a latent segment described by one or more helper images."""

    type: Literal["text", "latent"]
    text: str | None = None
    images: list[Image] | None = None

    @model_validator(mode="after")
    def _text_or_images(self) -> Self:
        if self.type == "text" and (not self.text or self.images):
            raise ValueError("a text step has text and no images")
        if self.type == "latent" and (not self.images or self.text is not None):
            raise ValueError("a latent step has at least one helper image and no text")
        return self


class Row(Record):
    """One example.

    `question` contains one `<image>` tag for each of `images`. `steps` is empty for prompt rows. `metadata` is a JSON
    object as text. It holds what a grader or a drawing needs, for instance `{"rows": ["SFH", ...]}` for `vsp`.
    """

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    split: str = Field(min_length=1)
    category: str | None = None
    question: str = Field(min_length=1)
    images: list[Image] = Field(default_factory=list[Image])
    options: list[str] = Field(default_factory=list[str])
    answer: str = Field(min_length=1)
    grader: Grader
    steps: list[Step] = Field(default_factory=list[Step])
    metadata: str = "{}"

    @property
    def meta(self) -> dict[str, Any]:
        """`metadata` parsed. Each access parses again, so callers may change the result."""
        return cast("dict[str, Any]", json.loads(self.metadata))

    @field_validator("metadata")
    @classmethod
    def _is_json_object(cls, value: str) -> str:
        try:
            parsed: object = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise ValueError(f"a JSON object is needed, not {value[:40]!r}")
        return value

    @model_validator(mode="after")
    def _one_tag_per_image(self) -> Self:
        tags = self.question.count(IMAGE_TAG)
        if tags != len(self.images):
            raise ValueError(f"the question has {tags} {IMAGE_TAG} but the row has {len(self.images)} images")
        return self


def parse_row(data: dict[str, Any], where: str) -> Row:
    """Validate `data` as a row.

    Args:
        data: the fields of a row.
        where: file and line, or index, for the error message.

    Raises:
        DataError: when a field is missing, unknown or invalid.
    """
    try:
        return Row.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "row"
        raise DataError(
            f"{where}: row {str(data.get('id', '?'))!r}, {field}: {first['msg']}",
            "correct the row; the fields are described in docs/data.md",
        ) from None
