"""Finds the columns of records that use other names than ours, and suggests their mapping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from posixpath import splitext

from covt_data.images.image_checks import SUFFIXES
from covt_data.records.field_values import Fields, as_list, as_object, is_absent

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


def look_up(data: Fields, column: str) -> object:
    """Return the value of a column; `a.b` is the field `b` of the object in the column `a`. None when there is none."""
    if column in data:
        return data[column]
    outer, dot, inner = column.partition(".")
    return look_up(as_object(data.get(outer)) or {}, inner) if dot else None


def has_column(data: Fields, column: str) -> bool:
    """Whether a record has the column, possibly with an empty value."""
    outer, dot, inner = column.partition(".")
    return column in data or (bool(dot) and has_column(as_object(data.get(outer)) or {}, inner))


def question_of_turns(value: object) -> object:
    """Return the text of the only user turn of `[{"role": "user", "content": …}]`, and any other value unchanged."""
    turns = [as_object(entry) or {} for entry in as_list(value) or ()]
    asked = [turn.get("content") for turn in turns if turn.get("role") == "user"]
    others = [turn for turn in turns if turn.get("role") not in ("user", "system")]
    return asked[0] if len(asked) == 1 and not others and isinstance(asked[0], str) else value


def find_column(data: Fields, field: str) -> str | None:
    """Return the column with another usual name that holds the record's images or options, or None."""
    column = _likeliest(data, USUAL_NAMES[field])
    if column is None:
        return None
    value = look_up(data, column)
    entries = as_list(value) or ([] if is_absent(value) else [value])
    if field == "images":
        return column if any(_is_image(entry) for entry in entries) else None
    return column if len(entries) > 1 or as_object(value) else None


def _is_image(value: object) -> bool:
    """Whether a value is an image, or a path with the suffix of one."""
    name = value if isinstance(value, str) else (as_object(value) or {}).get("path")
    data = value if isinstance(value, bytes) else (as_object(value) or {}).get("bytes")
    return isinstance(data, bytes) or (isinstance(name, str) and splitext(name)[1].lower() in SUFFIXES)


def suggest_columns(data: Fields, absent: Sequence[str], given: Sequence[str]) -> str:
    """Return what to do about a record without our fields: the option `columns` that reads it, or how to write it.

    Args:
        data: the fields of the record.
        absent: our fields that it lacks.
        given: the pairs `field=column` that the user gave.
    """
    turns = next((name for name in data if name.lower() in TURNS and as_list(data[name]) is not None), None)
    pairs = {field: column for field, _, column in (pair.partition("=") for pair in given) if has_column(data, column)}
    for field in absent:
        column = _likeliest(data, (field, *USUAL_NAMES.get(field, ())))
        if column is not None and field not in pairs:
            pairs[field] = column
    if turns and isinstance(question_of_turns(data[turns]), str):
        pairs.setdefault("question", turns)
    if "question" in absent and "question" not in pairs and turns:
        return f"question and answer stand in the turns of {turns!r}; write them as fields of their own"
    for field in ("question", "answer"):
        if field in absent and field not in pairs:
            pairs[field] = "COLUMN"
    return "map them with columns=" + ",".join(f"{field}={column}" for field, column in pairs.items())


def _likeliest(data: Fields, names: Sequence[str]) -> str | None:
    """Return the column with the first of these names, outer columns before fields inside them."""
    columns = list(_columns(data))
    for name in names:
        for inside in (False, True):
            for column in columns:
                if ("." in column) == inside and column.rpartition(".")[2].lower() == name:
                    return column
    return None


def _columns(data: Fields) -> Iterator[str]:
    yield from data
    for name, value in data.items():
        yield from (f"{name}.{inner}" for inner in as_object(value) or {})
