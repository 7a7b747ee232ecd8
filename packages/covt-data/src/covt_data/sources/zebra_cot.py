"""Source `zebra-cot`: multimodal-reasoning-lab/Zebra-CoT, interleaved traces in Parquet with the pictures inside.

Columns: `Question`, `Text Reasoning Trace`, `Final Answer`, `problem_image_1` …, `reasoning_image_1` …; a picture
stands in the text as `<image_start>[reasoning_image_1]<image_end>`. The subsets are folders; their names are the
categories. A trace may refer to a problem picture, to several pictures in a row, or to one twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from covt_data.rejects import Reason, Rejected
from covt_data.schema import IMAGE_TAG
from covt_data.sources.base import FileOptions, Place, Published, RecordSource
from covt_data.sources.drafts import Draft, DraftStep, PictureRef, judged_by, names_of, options_in, text_of, unboxed
from covt_data.sources.published import by_split, record_files

REFERENCE = re.compile(r"(?:<image_start>)?\s*\[((?:problem|reasoning)_image_\d+)\]\s*(?:<image_end>)?")


class ZebraOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't hold a boxed answer yet."""

    boxed: bool = True


def find(path: Path, options: ZebraOptions) -> Published:
    return Published(by_split(record_files(path, (".parquet",), "Zebra-CoT or of one of its subsets")), None)


def parse(data: dict[str, Any], place: Place, options: ZebraOptions) -> Draft:
    question, pictures = _question(data)
    answer = unboxed(text_of(data, "Final Answer", Reason.EMPTY_ANSWER))
    steps = _steps(data)
    if options.boxed and steps and not any("\\boxed{" in (step.text or "") for step in steps):
        steps = (*steps, DraftStep(f"\\boxed{{{answer}}}"))
    choices = options_in(question)
    grader = judged_by(answer, choices)
    folder = place.path.parent.name
    return Draft(
        id=f"zebra-{_slug(folder)}-{place.path.stem}-{place.line:06d}",
        category=folder,
        question=question,
        pictures=pictures,
        options=choices if grader == "choice" else (),
        answer=answer,
        grader=grader,
        steps=steps,
    )


def _question(data: dict[str, Any]) -> tuple[str, tuple[PictureRef, ...]]:
    """The question with tags in place of references, and its pictures in that order; others come in front."""
    text = text_of(data, "Question", Reason.EMPTY_QUESTION)
    named = [match.group(1) for match in REFERENCE.finditer(text)]
    others = [key for key in sorted(data, key=_number) if key.startswith("problem_image_") and key not in named]
    unnamed = [key for key in others if data[key] is not None]
    pictures = [_picture(data, key, Reason.IMAGE_MISSING) for key in [*unnamed, *named]]
    return (IMAGE_TAG * len(unnamed) + REFERENCE.sub(IMAGE_TAG, text)).strip(), tuple(pictures)


def _steps(data: dict[str, Any]) -> tuple[DraftStep, ...]:
    """Texts and pictures in turn; pictures with no words between them are one latent step."""
    trace = text_of(data, "Text Reasoning Trace")
    steps: list[DraftStep] = []
    pictures: list[PictureRef] = []
    for index, part in enumerate(REFERENCE.split(trace)):  # text, name, text, name, ..., text
        if index % 2:
            pictures.append(_picture(data, part, Reason.HELPER_IMAGE_MISSING))
        elif part.strip():
            if pictures:
                steps.append(DraftStep(pictures=tuple(pictures)))
                pictures = []
            steps.append(DraftStep(part.strip()))
    if pictures:
        steps.append(DraftStep(pictures=tuple(pictures)))
    if not steps:
        raise Rejected(Reason.EMPTY_STEP, "the reasoning trace is blank")
    return tuple(steps)


def _picture(data: dict[str, Any], key: str, missing: Reason) -> PictureRef:
    found = names_of(data.get(key), key)
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
