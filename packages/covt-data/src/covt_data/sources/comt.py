"""Source `comt`: CoMT as processed for ILVR (`shuai22/comt`): TRAIN.jsonl, TEST.jsonl, and comt.tar.gz or its folder.

A line has `text_input`, `image_input` (a path or several), `sequence_plan` (`{"type": "text", "content"}` and
`{"type": "latent", "helper_image"}`) and `original_final_answer`: the content of an option, not its letter. Paths
begin with `images_comt/`, so they are relative to the folder above it; the next part is the category.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from covt_data.rejects import Reason, Rejected, shorten
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.parsed_records import (
    ParsedRecord,
    ParsedStep,
    choose_grader,
    find_options,
    get_image_refs,
    get_text,
    place_image_tags,
)
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

PICTURES = "images_comt"
CATEGORIES = ("creation", "deletion", "selection", "update")


class ComtOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't hold a boxed answer yet."""

    boxed: bool = True


def find(path: Path, options: ComtOptions) -> DatasetFiles:
    files = find_record_files(path, (".jsonl",), "TRAIN.jsonl, TEST.jsonl and images_comt/ or comt.tar.gz")
    folder = path if path.is_dir() else path.parent
    archives = () if (folder / PICTURES).is_dir() else find_archives(folder)
    return DatasetFiles(group_by_split(files), None if archives else folder, archives)


def parse(data: dict[str, Any], place: RecordLocation, options: ComtOptions) -> ParsedRecord:
    pictures = get_image_refs(data.get("image_input"), "image_input")
    question = get_text(data, "text_input", Reason.EMPTY_QUESTION)
    answer = get_text(data, "original_final_answer", Reason.EMPTY_ANSWER).strip()
    steps = _steps(data)
    if options.boxed and steps and not any("\\boxed{" in (step.text or "") for step in steps):
        steps = (*steps, ParsedStep(f"\\boxed{{{answer}}}"))
    choices = find_options(question)
    grader = choose_grader(answer, choices)
    return ParsedRecord(
        id=get_text(data, "id") if data.get("id") is not None else f"comt-{place.split}-{place.line:06d}",
        category=_category(pictures[0]) if pictures else None,
        question=place_image_tags(question, len(pictures)),
        pictures=pictures,
        options=choices if grader == "choice" else (),
        answer=answer,
        grader=grader,
        steps=steps,
    )


def _steps(data: dict[str, Any]) -> tuple[ParsedStep, ...]:
    plan = data.get("sequence_plan")
    if not isinstance(plan, list):
        raise Rejected(
            Reason.MISSING_FIELD if plan is None else Reason.WRONG_TYPE,
            f"sequence_plan = {shorten(plan)} is not a list",
        )
    steps: list[ParsedStep] = []
    for number, entry in enumerate(plan):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "text":
            text = get_text(entry, "content")
            if text.strip():  # blank texts between two images carry nothing
                steps.append(ParsedStep(text))
        elif kind == "latent":
            helpers = get_image_refs(entry.get("helper_image"), "helper_image")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no helper_image")
            steps.append(ParsedStep(pictures=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shorten(entry)}")
    return tuple(steps)


def _category(picture: object) -> str | None:
    parts = picture.split("/") if isinstance(picture, str) else ()
    return parts[1] if len(parts) > 2 and (parts[0] == PICTURES or parts[1] in CATEGORIES) else None


SOURCE = RecordSource(
    name="comt",
    version="1",
    options=ComtOptions,
    find=find,
    parse=parse,
    hub_id="shuai22/comt",
    patterns=("TRAIN.jsonl", "TEST.jsonl", "comt.tar.gz"),
)
