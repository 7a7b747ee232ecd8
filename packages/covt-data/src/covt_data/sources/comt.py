"""Source `comt`: CoMT as processed for ILVR (`shuai22/comt`), and its original release (`czh-up/comt`).

A line of TRAIN.jsonl or TEST.jsonl has `text_input`, `image_input` (a path or several), `sequence_plan` (`{"type":
"text", "content"}` and `{"type": "latent", "helper_image"}`) and `original_final_answer`: the content of an option, not
its letter. Paths begin with `images_comt/`, so they are relative to the folder above it; the next part is the category.
`covt_data.sources.comt_original` reads the lines of the original release, `mirage_rows` those of Mirage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from covt_data.records.field_values import Fields, as_list, as_object, get_id, get_text
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.image_tags import place_image_tags
from covt_data.records.parsed_record import ParsedRecord, ParsedStep
from covt_data.records.step_texts import end_with_answer
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.sources import comt_original, mirage_rows
from covt_data.sources.dataset_files import find_archives, find_record_files, group_by_split
from covt_data.sources.source_types import DatasetFiles, FileOptions, RecordLocation, RecordSource

IMAGES = "images_comt"
CATEGORIES = ("creation", "deletion", "selection", "update")


class ComtOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't end with the answer yet.

    `grader=comt` judges all rows as ILVR's evaluation does, for comparable numbers; `auto` decides by options and
    answer.
    """

    boxed: bool = True
    grader: Literal["auto", "comt"] = "auto"


def find(path: Path, options: ComtOptions) -> DatasetFiles:
    files = find_record_files(path, (".jsonl",), "TRAIN.jsonl, TEST.jsonl and images_comt/ or comt.tar.gz")
    folder = path if path.is_dir() else path.parent
    extracted = (folder / IMAGES).is_dir() or (folder / comt_original.IMAGES).is_dir()
    archives = () if extracted else find_archives(folder)
    return DatasetFiles(
        group_by_split(files),
        None if archives else folder,
        archives,
        ("", *comt_original.PREFIXES),
        comt_original.SUFFIXES,
    )


def parse(data: Fields, place: RecordLocation, options: ComtOptions) -> ParsedRecord:
    default_id = f"comt-{place.split}-{place.line:06d}"
    grader = "comt" if options.grader == "comt" else None
    if comt_original.is_original(data):
        return comt_original.parse(data, default_id, options.boxed, grader)
    if mirage_rows.is_mirage(data):
        return mirage_rows.parse(data, default_id, options.boxed, grader)
    text = get_text(data, "text_input", Reason.EMPTY_QUESTION)
    refs = get_image_refs(data.get("image_input"), "image_input")
    question, images = place_image_tags(text, refs)
    written = find_options(question)
    answer = get_answer(data, "original_final_answer", question, written)
    steps = _steps(data)
    return ParsedRecord(
        id=get_id(data, "id", default_id),
        category=_category(refs[0]) if refs else None,
        question=question,
        images=images,
        written_options=written,
        answer=answer,
        grader=grader,
        steps=end_with_answer(steps, answer, written) if options.boxed else steps,
    )


def _steps(data: Fields) -> tuple[ParsedStep, ...]:
    plan = as_list(data.get("sequence_plan"))
    if plan is None:
        raise Rejected(
            Reason.WRONG_TYPE if data.get("sequence_plan") is not None else Reason.MISSING_FIELD,
            f"sequence_plan = {shorten(data.get('sequence_plan'))} is not a list",
        )
    steps: list[ParsedStep] = []
    for number, entry in enumerate(plan):
        fields = as_object(entry) or {}
        kind = fields.get("type")
        if kind == "text":
            text = get_text(fields, "content")
            if text.strip():  # blank texts between two images carry nothing
                steps.append(ParsedStep(text))
        elif kind == "latent":
            helpers = get_image_refs(fields.get("helper_image"), "helper_image")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no helper_image")
            steps.append(ParsedStep(images=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shorten(entry)}")
    return tuple(steps)


def _category(image: object) -> str | None:
    parts = image.split("/") if isinstance(image, str) else ()
    return parts[1] if len(parts) > 2 and (parts[0] == IMAGES or parts[1] in CATEGORIES) else None


SOURCE = RecordSource(
    name="comt",
    version="2",
    options=ComtOptions,
    find=find,
    parse=parse,
    hub_id="shuai22/comt",
    patterns=("TRAIN.jsonl", "TEST.jsonl", "comt.tar.gz", "data.jsonl", "images/**", "*.zip"),
)
