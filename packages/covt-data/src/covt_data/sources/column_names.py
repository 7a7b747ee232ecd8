"""Suggests the mapping of columns for records that use other names than ours."""

from __future__ import annotations

from collections.abc import Sequence

from covt_data.records.field_values import Fields

USUAL_NAMES = {
    "question": ("problem", "prompt", "query", "instruction", "question_text", "text_input", "input", "text"),
    "answer": ("solution", "gold", "label", "ground_truth", "gt_answer", "final_answer", "original_final_answer",
               "target", "response", "output", "reference"),
    "images": ("image", "image_path", "image_paths", "image_file", "images_path", "img", "img_path", "picture",
               "pictures", "image_input", "file_name", "decoded_image"),
    "options": ("choices", "candidates", "option", "multiple_choices"),
    "id": ("qid", "question_id", "uid", "idx", "index", "pid"),
}  # fmt: skip
"""Field → names that other datasets give it, the likeliest first."""

TURNS = ("conversations", "messages", "conversation")


def suggest_columns(data: Fields, absent: Sequence[str], given: Sequence[str]) -> str:
    """Return what to do about a record without our fields: the option `columns` that reads it, or how to write it.

    Args:
        data: the fields of the record.
        absent: our fields that it lacks.
        given: the pairs `field=column` that the user gave.
    """
    turns = next((name for name in data if name.lower() in TURNS and isinstance(data[name], list)), None)
    lower = {name.lower(): name for name in data}
    pairs = {pair.partition("=")[0]: pair.partition("=")[2] for pair in given if pair.partition("=")[2] in data}
    for field in absent:
        names = (field, *USUAL_NAMES.get(field, ()))
        column = next((lower[name] for name in names if name in lower), None)
        if column is not None and field not in pairs:
            pairs[field] = column
    if "question" in absent and "question" not in pairs and turns:
        return f"question and answer stand in the turns of {turns!r}; write them as fields of their own"
    for field in ("question", "answer"):
        if field in absent and field not in pairs:
            pairs[field] = "COLUMN"
    return "map them with columns=" + ",".join(f"{field}={column}" for field, column in pairs.items())
