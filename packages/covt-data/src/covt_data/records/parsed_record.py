"""Parsed records: rows whose images are still file names or unchecked bytes, and whose grader may be open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from covt_data.schema import Grader


@dataclass(frozen=True)
class EmbeddedImage:
    """An image stored inside the record."""

    data: bytes
    name: str = ""


@dataclass(frozen=True)
class MissingImage:
    """An image that a text names and the record lacks."""

    name: str


ImageRef = str | EmbeddedImage | MissingImage
"""A file name, the image itself, or the name of an image that is missing."""


@dataclass(frozen=True)
class ParsedStep:
    """A text, or the images of a latent step."""

    text: str | None = None
    images: tuple[ImageRef, ...] = ()


@dataclass(frozen=True)
class ParsedRecord:
    """One record as its source reads it.

    Attributes:
        answer: the gold answer without a `\\boxed{…}` around it.
        grader: None when options and answer decide.
        options: the options of a field of their own.
        written_options: options found in the question's text; they count only when the answer names some of them.
        metadata: `pass_rate` (0 to 1) and `origin` (the dataset a record came from) are used by filters.
    """

    id: str
    question: str
    answer: str
    grader: Grader | None = None
    category: str | None = None
    images: tuple[ImageRef, ...] = ()
    options: tuple[str, ...] = ()
    written_options: tuple[str, ...] = ()
    steps: tuple[ParsedStep, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """Everything a model reads or writes as text."""
        return "\n".join([self.question, *(step.text for step in self.steps if step.text), self.answer])
