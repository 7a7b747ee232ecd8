r"""Rows as Mirage writes them (VSP, SAT, BLINK jigsaw), read by the source `comt`.

A line has `text_input`, `image_input` (a path or several), `image_output` (the helper image) and `text_output`, in
which `<output_image>` marks the helper image; without a mark it comes first. The answer is `original_final_answer`, or
the last box, or what the last line of `text_output` says the answer is. `map_desc` is the map of a VSP row: 0 ice, -1
hole, 1 start, 2 goal.
"""

from __future__ import annotations

from covt_data.records.field_values import Fields, as_list, get_id, get_text
from covt_data.records.gold_fields import get_answer, strip_boxed
from covt_data.records.image_fields import get_image_refs
from covt_data.records.image_tags import place_image_tags
from covt_data.records.parsed_record import ImageRef, ParsedRecord, ParsedStep
from covt_data.records.step_texts import end_with_answer, find_conclusion
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.schema import Grader
from covt_data.tasks.vsp_published import LETTERS

MARK = "<output_image>"


def is_mirage(data: Fields) -> bool:
    """Whether a line is of this layout."""
    return "text_output" in data and "sequence_plan" not in data


def parse(data: Fields, default_id: str, boxed: bool, grader: Grader | None) -> ParsedRecord:
    """Read a line of this layout.

    Args:
        data: its fields.
        default_id: the id of a line without one.
        boxed: end the steps with the boxed answer.
        grader: the grader of all rows, or None to choose one.
    """
    text = get_text(data, "text_input", Reason.EMPTY_QUESTION)
    question, images = place_image_tags(text, get_image_refs(data.get("image_input"), "image_input"))
    written = find_options(question)
    output = get_text(data, "text_output", Reason.EMPTY_STEP)
    answer = _answer(data, output, question, written)
    steps = _steps(output, get_image_refs(data.get("image_output"), "image_output"))
    rows = _map(data.get("map_desc"))
    return ParsedRecord(
        id=get_id(data, "id", default_id),
        question=question,
        images=images,
        written_options=written,
        answer=answer,
        grader=grader or ("vsp" if rows else None),
        steps=end_with_answer(steps, answer, written) if boxed else steps,
        metadata={"rows": rows} if rows else {},
    )


def _answer(data: Fields, output: str, question: str, options: tuple[str, ...]) -> str:
    if data.get("original_final_answer") is not None:
        return get_answer(data, "original_final_answer", question, options)
    if "\\boxed{" in output:
        return strip_boxed(output)
    answer = find_conclusion(output)
    if answer is None:
        raise Rejected(
            Reason.EMPTY_ANSWER,
            f"text_output = {shorten(output)} has no answer: box it, or add the field original_final_answer",
        )
    return answer


def _steps(output: str, helpers: tuple[ImageRef, ...]) -> tuple[ParsedStep, ...]:
    """Return the text before the helper image, the helper image, and the text behind it."""
    if not helpers:
        raise Rejected(Reason.HELPER_IMAGE_MISSING, "no image_output")
    before, mark, behind = output.partition(MARK)
    texts = (before, behind.replace(MARK, "")) if mark else ("", before)
    steps = [ParsedStep(texts[0].strip()), ParsedStep(images=helpers), ParsedStep(texts[1].strip())]
    return tuple(step for step in steps if step.images or step.text)


def _map(value: object) -> list[str]:
    """Return the rows of a map in letters; empty when there is none."""
    rows = as_list(value) or []
    letters = [[LETTERS.get(cell) for cell in as_list(row) or [] if isinstance(cell, int)] for row in rows]
    if value is not None and (not rows or any(not row or None in row for row in letters)):
        raise Rejected(Reason.WRONG_TYPE, f"map_desc = {shorten(value)} is not a map of 0, -1, 1 and 2")
    return ["".join(letter or "" for letter in row) for row in letters]
