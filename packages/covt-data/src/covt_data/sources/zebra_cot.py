"""Source `zebra-cot`: multimodal-reasoning-lab/Zebra-CoT, interleaved traces in Parquet with the images inside.

Columns: `Question`, `Text Reasoning Trace`, `Final Answer`, `problem_image_1` …, `reasoning_image_1` …; an image
stands in the text as `<image_start>[reasoning_image_1]<image_end>`. Unused image columns are null or a struct of nulls.
The subsets are folders; their names are the categories. A trace may refer to a problem image, to several images in a
row, or to one twice, and more than 5000 traces name a helper image that the row lacks.
"""

from __future__ import annotations

import re
from pathlib import Path

from covt_data.records.field_values import Fields, get_text
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.parsed_record import ImageRef, MissingImage, ParsedRecord, ParsedStep
from covt_data.records.step_texts import end_with_answer
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected
from covt_data.schema import IMAGE_TAG
from covt_data.sources.dataset_files import find_record_files, group_by_split
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

REFERENCE = re.compile(r"(?:<image_start>)?\s*\[((?:problem|reasoning)_image_\d+)\]\s*(?:<image_end>)?")


class ZebraOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't end with the answer yet."""

    boxed: bool = True


def find(path: Path, options: ZebraOptions) -> DatasetFiles:
    return DatasetFiles(
        group_by_split(find_record_files(path, (".parquet",), "Zebra-CoT or of one of its subsets")), None
    )


def parse(data: Fields, place: RecordLocation, options: ZebraOptions) -> ParsedRecord:
    question, images = _question(data)
    written = find_options(question)
    answer = get_answer(data, "Final Answer", question, written)
    steps = _steps(data)
    folder = place.path.parent.name
    return ParsedRecord(
        id=f"zebra-{_slug(folder)}-{place.path.stem}-{place.line:06d}",
        category=folder,
        question=question,
        images=images,
        written_options=written,
        answer=answer,
        steps=end_with_answer(steps, answer, written) if options.boxed else steps,
    )


def _question(data: Fields) -> tuple[str, tuple[ImageRef, ...]]:
    """Return the question with tags in place of references, and its images in that order; others come in front."""
    text = get_text(data, "Question", Reason.EMPTY_QUESTION)
    named = [match.group(1) for match in REFERENCE.finditer(text)]
    others = [key for key in sorted(data, key=_number) if key.startswith("problem_image_") and key not in named]
    unnamed = [key for key in others if get_image_refs(data[key], key)]
    images = [_image(data, key) for key in [*unnamed, *named]]
    return (IMAGE_TAG * len(unnamed) + REFERENCE.sub(IMAGE_TAG, text)).strip(), tuple(images)


def _steps(data: Fields) -> tuple[ParsedStep, ...]:
    """Return texts and images in turn; images with no words between them are one latent step."""
    trace = get_text(data, "Text Reasoning Trace")
    steps: list[ParsedStep] = []
    images: list[ImageRef] = []
    for index, part in enumerate(REFERENCE.split(trace)):  # text, name, text, name, ..., text
        if index % 2:
            images.append(_image(data, part))
        elif part.strip():
            if images:
                steps.append(ParsedStep(images=tuple(images)))
                images = []
            steps.append(ParsedStep(part.strip()))
    if images:
        steps.append(ParsedStep(images=tuple(images)))
    if not steps:
        raise Rejected(Reason.EMPTY_STEP, "the reasoning trace is blank")
    return tuple(steps)


def _image(data: Fields, key: str) -> ImageRef:
    found = get_image_refs(data.get(key), key)
    return found[0] if found else MissingImage(key)


def _number(key: str) -> tuple[int, str]:
    digits = key.rpartition("_")[2]
    return (int(digits) if digits.isdigit() else 0, key)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


SOURCE = RecordSource(
    name="zebra-cot",
    version="2",
    options=ZebraOptions,
    find=find,
    parse=parse,
    hub_id="multimodal-reasoning-lab/Zebra-CoT",
    patterns=("*.parquet", "**/*.parquet"),
)
