"""Reads the gold answer of a record, in the forms in which datasets write it."""

from __future__ import annotations

import json
import re

from covt_data.records.field_values import Fields, as_list, as_object, check_utf8, get_text, to_text
from covt_data.rejects import Reason, Rejected, shorten

TRUE_OR_FALSE = re.compile(r"\b(?:true|false)\b", re.IGNORECASE)


def get_answer(data: Fields, key: str, question: str = "", options: tuple[str, ...] = ()) -> str:
    r"""Return the gold answer: the content of its last `\boxed{…}`, or the whole text.

    A list of one entry is that entry; a list of several options' letters or texts is read as these, comma-separated.
    Objects with boxes become JSON. A boolean becomes `Yes` or `No`, or `True` or `False` where the question or the
    options say true or false.

    Args:
        data: the fields of a record.
        key: name of the field.
        question: the question's text, for booleans.
        options: the options, for booleans and lists.

    Raises:
        Rejected: when there is no answer, or no answer of one of these forms.
    """
    value = data.get(key)
    entries = as_list(value)
    if entries is not None and not _are_boxes(entries):
        return strip_boxed(_join(entries, key, question, options))
    if entries is not None or as_object(value) is not None:
        return json.dumps(_checked_boxes(value, key), ensure_ascii=False)
    if isinstance(value, bool):
        return _boolean(value, question, options)
    if isinstance(value, float) and to_text(value) is None:
        raise Rejected(Reason.EMPTY_ANSWER, f"{key} = {value} is not a gold answer: write the answer as text")
    return strip_boxed(get_text(data, key, Reason.EMPTY_ANSWER))


def _join(entries: list[object], key: str, question: str, options: tuple[str, ...]) -> str:
    texts = [_boolean(entry, question, options) if isinstance(entry, bool) else to_text(entry) for entry in entries]
    known = [check_utf8(text, key) for text in texts if text is not None and text.strip()]
    if not entries:
        raise Rejected(Reason.EMPTY_ANSWER, f"{key} is an empty list")
    if len(known) < len(entries):
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(entries)} holds something that is not text")
    if len(known) == 1:
        return known[0]
    if options or all(re.fullmatch(r"\(?[A-Z]\)?", text.strip()) for text in known):
        return ", ".join(text.strip() for text in known)
    raise Rejected(
        Reason.WRONG_TYPE, f"{key} = {shorten(entries)} has {len(known)} answers: write the one that is judged"
    )


def _boolean(value: bool, question: str, options: tuple[str, ...]) -> str:
    names = {option.strip().casefold() for option in options}
    if {"yes", "no"} & names or not ({"true", "false"} & names or TRUE_OR_FALSE.search(question)):
        return "Yes" if value else "No"
    return "True" if value else "False"


def _are_boxes(entries: list[object]) -> bool:
    return bool(entries) and all(as_object(entry) is not None for entry in entries)


def _checked_boxes(value: object, key: str) -> object:
    entries = as_list(value) or [value]
    for entry in entries:
        if not any(name in (as_object(entry) or {}) for name in ("bbox_2d", "bbox", "point_2d", "point")):
            raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is neither text nor boxes (bbox_2d, point_2d)")
    return entries


def strip_boxed(answer: str) -> str:
    """Return the content of the last `\\boxed{…}`, or the answer itself if it has none.

    Raises:
        Rejected: when braces are unbalanced or nothing is left.
    """
    start = answer.rfind("\\boxed{")
    if start < 0:
        content = answer
    else:
        depth, end = 0, start + len("\\boxed")
        for end in range(start + len("\\boxed"), len(answer)):
            depth += {"{": 1, "}": -1}.get(answer[end], 0) if answer[end - 1] != "\\" else 0
            if depth == 0:
                break
        if depth:
            raise Rejected(Reason.ANSWER_BRACES, f"{shorten(answer)} has unbalanced braces")
        content = answer[start + len("\\boxed{") : end]
    if not content.strip():
        raise Rejected(Reason.EMPTY_ANSWER, f"{shorten(answer)} holds nothing")
    return content.strip()
