"""Source `zebra-cot`: multimodal-reasoning-lab/Zebra-CoT, interleaved traces in Parquet with the images inside.

Columns: `Question`, `Text Reasoning Trace`, `Final Answer`, `problem_image_1` …, `reasoning_image_1` …; an image
stands in the text as `<image_start>[reasoning_image_1]<image_end>`. The subsets are folders; their names are the
categories. A trace may refer to a problem image, to several images in a row, or to one twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from covt_data.rejects import Reason, Rejected
from covt_data.schema import IMAGE_TAG
from covt_data.sources.dataset_files import find_record_files, group_by_split
from covt_data.sources.parsed_records import (
    ImageRef,
    ParsedRecord,
    ParsedStep,
    choose_grader,
    find_options,
    get_image_refs,
    get_text,
    strip_boxed,
)
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

REFERENCE = re.compile(r"(?:<image_start>)?\s*\[((?:problem|reasoning)_image_\d+)\]\s*(?:<image_end>)?")


class ZebraOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't hold a boxed answer yet."""

    boxed: bool = True


def find(path: Path, options: ZebraOptions) -> DatasetFiles:
    return DatasetFiles(
        group_by_split(find_record_files(path, (".parquet",), "Zebra-CoT or of one of its subsets")), None
    )


def parse(data: dict[str, Any], place: RecordLocation, options: ZebraOptions) -> ParsedRecord:
    question, pictures = _question(data)
    answer = strip_boxed(get_text(data, "Final Answer", Reason.EMPTY_ANSWER))
    steps = _steps(data)
    if options.boxed and steps and not any("\\boxed{" in (step.text or "") for step in steps):
        steps = (*steps, ParsedStep(f"\\boxed{{{answer}}}"))
    choices = find_options(question)
    grader = choose_grader(answer, choices)
    folder = place.path.parent.name
    return ParsedRecord(
        id=f"zebra-{_slug(folder)}-{place.path.stem}-{place.line:06d}",
        category=folder,
        question=question,
        pictures=pictures,
        options=choices if grader == "choice" else (),
        answer=answer,
        grader=grader,
        steps=steps,
    )


def _question(data: dict[str, Any]) -> tuple[str, tuple[ImageRef, ...]]:
    """The question with tags in place of references, and its images in that order; others come in front."""
    text = get_text(data, "Question", Reason.EMPTY_QUESTION)
    named = [match.group(1) for match in REFERENCE.finditer(text)]
    others = [key for key in sorted(data, key=_number) if key.startswith("problem_image_") and key not in named]
    unnamed = [key for key in others if data[key] is not None]
    pictures = [_picture(data, key, Reason.IMAGE_MISSING) for key in [*unnamed, *named]]
    return (IMAGE_TAG * len(unnamed) + REFERENCE.sub(IMAGE_TAG, text)).strip(), tuple(pictures)


def _steps(data: dict[str, Any]) -> tuple[ParsedStep, ...]:
    """Texts and images in turn; images with no words between them are one latent step."""
    trace = get_text(data, "Text Reasoning Trace")
    steps: list[ParsedStep] = []
    pictures: list[ImageRef] = []
    for index, part in enumerate(REFERENCE.split(trace)):  # text, name, text, name, ..., text
        if index % 2:
            pictures.append(_picture(data, part, Reason.HELPER_IMAGE_MISSING))
        elif part.strip():
            if pictures:
                steps.append(ParsedStep(pictures=tuple(pictures)))
                pictures = []
            steps.append(ParsedStep(part.strip()))
    if pictures:
        steps.append(ParsedStep(pictures=tuple(pictures)))
    if not steps:
        raise Rejected(Reason.EMPTY_STEP, "the reasoning trace is blank")
    return tuple(steps)


def _picture(data: dict[str, Any], key: str, missing: Reason) -> ImageRef:
    found = get_image_refs(data.get(key), key)
    if not found:
        raise Rejected(missing, f"{key} is named in the text, but the row has no such picture")
    return found[0]


def _number(key: str) -> tuple[int, str]:
    digits = key.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, key)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


SOURCE = RecordSource(
    name="zebra-cot",
    version="1",
    options=ZebraOptions,
    find=find,
    parse=parse,
    hub_id="multimodal-reasoning-lab/Zebra-CoT",
    patterns=("*.parquet", "**/*.parquet"),
)
