"""Source `comt`: CoMT as processed for ILVR (`shuai22/comt`): TRAIN.jsonl, TEST.jsonl, and comt.tar.gz or its folder.

A line has `text_input`, `image_input` (a path or several), `sequence_plan` (`{"type": "text", "content"}` and
`{"type": "latent", "helper_image"}`) and `original_final_answer`: the content of an option, not its letter. Paths
begin with `images_comt/`, so they are relative to the folder above it; the next part is the category.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from covt_data.rejects import Reason, Rejected, shown
from covt_data.sources.base import FileOptions, Place, Published, RecordSource
from covt_data.sources.drafts import Draft, DraftStep, judged_by, names_of, options_in, tagged, text_of
from covt_data.sources.published import archives_in, by_split, record_files

PICTURES = "images_comt"
CATEGORIES = ("creation", "deletion", "selection", "update")


class ComtOptions(FileOptions):
    """`boxed` ends the steps of a row with `\\boxed{answer}` where they don't hold a boxed answer yet."""

    boxed: bool = True


def find(path: Path, options: ComtOptions) -> Published:
    files = record_files(path, (".jsonl",), "TRAIN.jsonl, TEST.jsonl and images_comt/ or comt.tar.gz")
    folder = path if path.is_dir() else path.parent
    archives = () if (folder / PICTURES).is_dir() else archives_in(folder)
    return Published(by_split(files), None if archives else folder, archives)


def parse(data: dict[str, Any], place: Place, options: ComtOptions) -> Draft:
    pictures = names_of(data.get("image_input"), "image_input")
    question = text_of(data, "text_input", Reason.EMPTY_QUESTION)
    answer = text_of(data, "original_final_answer", Reason.EMPTY_ANSWER).strip()
    steps = _steps(data)
    if options.boxed and steps and not any("\\boxed{" in (step.text or "") for step in steps):
        steps = (*steps, DraftStep(f"\\boxed{{{answer}}}"))
    choices = options_in(question)
    grader = judged_by(answer, choices)
    return Draft(
        id=text_of(data, "id") if data.get("id") is not None else f"comt-{place.split}-{place.line:06d}",
        category=_category(pictures[0]) if pictures else None,
        question=tagged(question, len(pictures)),
        pictures=pictures,
        options=choices if grader == "choice" else (),
        answer=answer,
        grader=grader,
        steps=steps,
    )


def _steps(data: dict[str, Any]) -> tuple[DraftStep, ...]:
    plan = data.get("sequence_plan")
    if not isinstance(plan, list):
        raise Rejected(
            Reason.MISSING_FIELD if plan is None else Reason.WRONG_TYPE, f"sequence_plan = {shown(plan)} is not a list"
        )
    steps: list[DraftStep] = []
    for number, entry in enumerate(plan):
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind == "text":
            text = text_of(entry, "content")
            if text.strip():  # blank texts between two pictures carry nothing
                steps.append(DraftStep(text))
        elif kind == "latent":
            helpers = names_of(entry.get("helper_image"), "helper_image")
            if not helpers:
                raise Rejected(Reason.HELPER_IMAGE_MISSING, f"step {number} has no helper_image")
            steps.append(DraftStep(pictures=helpers))
        else:
            raise Rejected(Reason.UNKNOWN_STEP_TYPE, f"step {number} is {shown(entry)}")
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
