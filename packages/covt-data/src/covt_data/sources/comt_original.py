"""Lines of CoMT's original release (`czh-up/comt`): data.jsonl and images/CATEGORY/, read by the source `comt`.

A line has `id`, `question`, `option` (texts), `image` (`["[IMAGE0:ID]", …]`), `rationale` with the same marks where an
image stands, `answer` (a letter), `type` (the category) and `annotations`. Images of the question are those that the
rationale doesn't mark, or else those that the question marks; the others are helper images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase

from covt_data.records.field_values import Fields, get_id, get_label, get_text
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.option_fields import get_options
from covt_data.records.parsed_record import ImageRef, MissingImage, ParsedRecord, ParsedStep
from covt_data.records.step_texts import end_with_answer
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason
from covt_data.schema import IMAGE_TAG, Grader

IMAGES = "images"
PREFIXES = ("images", "images/creation", "images/deletion", "images/selection", "images/update", "comt/images")
SUFFIXES = ("", ".png", ".jpg", ".jpeg")
"""Ids of images are file names, with or without a suffix."""

MARK = re.compile(r"\[IMAGE\s?(\d+)(?::\s*([^\]\s]+))?\s*\]", re.IGNORECASE)


def is_original(data: Fields) -> bool:
    """Whether a line is of the original release."""
    return "rationale" in data and "sequence_plan" not in data


def parse(data: Fields, default_id: str, boxed: bool, grader: Grader | None) -> ParsedRecord:
    """Read a line of the original release.

    Args:
        data: its fields.
        default_id: the id of a line without one.
        boxed: end the steps with the boxed answer.
        grader: the grader of all rows, or None to choose one.
    """
    text = get_text(data, "question", Reason.EMPTY_QUESTION)
    category = get_label(data, "type")
    images = _images(data, category)
    rationale = get_text(data, "rationale")
    options = get_options(data.get("option"), "option")
    answer = get_answer(data, "answer", text, options)
    if not find_options(text):  # the release keeps the options apart; a model has to see them
        text += "".join(f"\n({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
    question, refs = _question(text, images, {int(mark.group(1)) for mark in MARK.finditer(rationale)})
    steps = _steps(rationale, images)
    return ParsedRecord(
        id=get_id(data, "id", default_id),
        category=category,
        question=question,
        images=refs,
        options=options,
        answer=answer,
        grader=grader,
        steps=end_with_answer(steps, answer, options) if boxed else steps,
    )


def _images(data: Fields, category: str | None) -> dict[int, ImageRef]:
    """Return number → image. An entry without a mark is a path, numbered by its place in the list."""
    found: dict[int, ImageRef] = {}
    for place, ref in enumerate(get_image_refs(data.get("image"), "image")):
        mark = MARK.fullmatch(ref.strip()) if isinstance(ref, str) else None
        if mark is None:
            found[place] = ref
        elif mark.group(2) is None:
            found[int(mark.group(1))] = MissingImage(mark.group())
        else:
            name = mark.group(2)
            found[int(mark.group(1))] = f"{category}/{name}" if category and "/" not in name else name
    return found


def _question(text: str, images: Mapping[int, ImageRef], in_rationale: set[int]) -> tuple[str, tuple[ImageRef, ...]]:
    marked = [int(mark.group(1)) for mark in MARK.finditer(text)]
    unmarked = [number for number in sorted(images) if number not in in_rationale and number not in marked]
    if not marked and not unmarked:
        unmarked = sorted(images)[:1]  # a rationale that comes back to the image of the question
    named = [images.get(number, MissingImage(f"[IMAGE{number}]")) for number in [*unmarked, *marked]]
    return (IMAGE_TAG * len(unmarked) + MARK.sub(IMAGE_TAG, text)).strip(), tuple(named)


def _steps(rationale: str, images: Mapping[int, ImageRef]) -> tuple[ParsedStep, ...]:
    """Return texts and images in turn; images with no words between them are one latent step."""
    steps: list[ParsedStep] = []
    position = 0
    for mark in MARK.finditer(rationale):
        text = rationale[position : mark.start()].strip()
        number = int(mark.group(1))
        ref = images.get(number, MissingImage(mark.group()))
        if text:
            steps.append(ParsedStep(text))
        if steps and steps[-1].text is None:
            steps[-1] = ParsedStep(images=(*steps[-1].images, ref))
        else:
            steps.append(ParsedStep(images=(ref,)))
        position = mark.end()
    rest = rationale[position:].strip()
    return (*steps, ParsedStep(rest)) if rest else tuple(steps)
