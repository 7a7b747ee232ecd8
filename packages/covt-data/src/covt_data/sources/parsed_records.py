"""Parsed records: rows whose images are still file names or unchecked bytes. Helpers for parsing them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from covt_data.rejects import Reason, Rejected, shorten
from covt_data.schema import IMAGE_TAG, Grader

OPTION = re.compile(r"(?:^|[\n\s])\(?([A-J])[).:]\s+(.*?)\s*(?=(?:[\n\s]\(?[A-J][).:]\s)|\n\n|$)", re.DOTALL)


@dataclass(frozen=True)
class EmbeddedImage:
    """An image stored inside the record."""

    data: bytes
    name: str = ""


ImageRef = str | EmbeddedImage
"""A file name, or the image itself."""


@dataclass(frozen=True)
class ParsedStep:
    """A text, or the images of a latent step."""

    text: str | None = None
    pictures: tuple[ImageRef, ...] = ()


@dataclass(frozen=True)
class ParsedRecord:
    """`metadata["pass_rate"]` (0–1) and `metadata["origin"]` (the dataset it came from) are used by filters."""

    id: str
    question: str
    answer: str
    grader: Grader
    category: str | None = None
    pictures: tuple[ImageRef, ...] = ()
    options: tuple[str, ...] = ()
    steps: tuple[ParsedStep, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def text(self) -> str:
        """Everything a model reads or writes as text."""
        return "\n".join([self.question, *(step.text for step in self.steps if step.text), self.answer])


def get_text(data: Mapping[str, Any], key: str, empty: Reason | None = None) -> str:
    """Return a field as text; numbers are converted.

    Args:
        data: the fields of a record.
        key: name of the field.
        empty: the reason with which a blank field is rejected; None accepts it.

    Raises:
        Rejected: when the field is missing, blank, no text, or not UTF-8.
    """
    if data.get(key) is None:
        raise Rejected(empty or Reason.MISSING_FIELD, f"no {key!r}; the fields are {shorten(sorted(map(str, data)))}")
    value = data[key]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not text")
    text = str(value)
    if empty and not text.strip():
        raise Rejected(empty, f"{key} is blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Rejected(Reason.NOT_UTF8, f"{key} has half of a surrogate pair") from None
    return text


def get_image_refs(value: object, key: str) -> tuple[ImageRef, ...]:
    """Return the images of a field, which holds a name, embedded `{bytes, path}`, a list of these, or nothing."""
    items = value if isinstance(value, list | tuple) else [] if value is None or value == "" else [value]
    return tuple(_picture(item, key) for item in items)


def _picture(item: object, key: str) -> ImageRef:
    if isinstance(item, str):
        return item
    if isinstance(item, dict):
        data, path = item.get("bytes"), item.get("path")
        if isinstance(data, bytes):
            return EmbeddedImage(data, path if isinstance(path, str) else "")
        if isinstance(path, str) and data is None:
            return path
    raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(item)} is not a picture")


def place_image_tags(question: str, count: int, tag: re.Pattern[str] | None = None, in_front: bool = False) -> str:
    """Return the question with one `<image>` tag per image. A question without tags gets them in front.

    Args:
        question: the text of the source.
        count: number of images.
        tag: how the source writes its tags.
        in_front: move the tags to the front, whatever their number.

    Raises:
        Rejected: when the number of tags is wrong.
    """
    text = tag.sub(IMAGE_TAG, question) if tag else question
    if in_front:
        text = text.replace(IMAGE_TAG, "")
    found = text.count(IMAGE_TAG)
    if found == 0:
        return IMAGE_TAG * count + text.strip()
    if found != count:
        raise Rejected(Reason.IMAGE_COUNT, f"the question has {found} {IMAGE_TAG} for {count} pictures")
    return text.strip()


def strip_boxed(answer: str) -> str:
    """Return the content of the last `\\boxed{…}`, or the answer itself if it has none.

    Raises:
        Rejected: when braces are unbalanced or nothing is left.
    """
    start = answer.rfind("\\boxed{")
    if start < 0:
        content = answer
    else:
        depth, end = 0, start + len("\\boxed")
        for end in range(start + len("\\boxed"), len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[end], 0) if answer[end - 1] != "\\" else 0
            if depth == 0:
                break
        if depth:
            raise Rejected(Reason.ANSWER_BRACES, f"{shorten(answer)} has unbalanced braces")
        content = answer[start + len("\\boxed{") : end]
    if not content.strip():
        raise Rejected(Reason.EMPTY_ANSWER, f"{shorten(answer)} holds nothing")
    return content.strip()


def find_options(question: str) -> tuple[str, ...]:
    """Return the options at the end of a question: `(A) …`, `A. …` or `A: …`, lettered A, B, … without a gap."""
    found = OPTION.findall(question)
    letters = "".join(letter for letter, _ in found)
    found = found[letters.rfind("A") :] if "A" in letters else []
    texts = tuple(text.strip() for _, text in found)
    complete = len(found) > 1 and "ABCDEFGHIJ".startswith("".join(letter for letter, _ in found))
    return texts if complete and all(texts) else ()


def choose_grader(answer: str, options: Sequence[str]) -> Grader:
    """Choose the grader of an answer: `choice` for an option or a single letter, otherwise `math` or `text`."""
    letter = answer.strip("()., ").upper()
    if options:
        names_one = answer in options or (len(letter) == 1 and "A" <= letter <= chr(ord("A") + len(options) - 1))
        if names_one:
            return "choice"
    elif len(letter) == 1 and letter.isalpha() and answer.strip("()., ").isupper():
        return "choice"
    return "math" if any(character.isdigit() or character in "\\=+^_" for character in answer) else "text"
