"""Reads the options of a multiple-choice record from a field of their own."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from string import ascii_uppercase

from covt_data.records.field_values import as_list, as_object, check_utf8, is_absent, to_text
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected, shorten


def get_options(value: object, key: str) -> tuple[str, ...]:
    """Return the options of a field, in the order of their letters.

    Args:
        value: a list of texts or numbers, an object by letter (`{"A": "cat", "B": "dog"}`), an object of lists
            (`{"label": ["A", "B"], "text": ["cat", "dog"]}`), any of these as JSON or Python text, text as
            `A. cat` and `B. dog` on lines of their own, or nothing.
        key: name of the field, for messages.

    Raises:
        Rejected: for another value, a blank option, or letters that aren't A, B, C, ….
    """
    if isinstance(value, str):
        value = _parsed(value, key)
    fields = as_object(value)
    if fields is not None:
        return _by_letter(fields, key)
    entries = as_list(value)
    if entries is None:
        if is_absent(value):
            return ()
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(value)} is not a list of texts")
    return _texts(entries, key)


def _parsed(text: str, key: str) -> object:
    """Return the value that a text spells."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if text.strip()[0] in "[{(":
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            pass
    written = find_options(text)
    if not written:
        raise Rejected(Reason.WRONG_TYPE, f"{key} = {shorten(text)} is not a list of options: write a JSON list")
    return list(written)


def _texts(entries: Iterable[object], key: str) -> tuple[str, ...]:
    texts: list[str] = []
    for number, entry in enumerate(entries):
        text = str(entry) if isinstance(entry, bool) else to_text(entry)
        if text is None:
            raise Rejected(Reason.WRONG_TYPE, f"{key}[{number}] = {shorten(entry)} is not text")
        if not text.strip():
            raise Rejected(Reason.WRONG_TYPE, f"{key}[{number}] is blank")
        texts.append(check_utf8(text, f"{key}[{number}]"))
    return tuple(texts)


def _by_letter(fields: dict[str, object], key: str) -> tuple[str, ...]:
    """Return the options of `{letter: text}` or `{label: [letter], text: [text]}`."""
    labels, texts = as_list(fields.get("label")), as_list(fields.get("text"))
    if labels is not None and texts is not None and len(labels) == len(texts):
        fields = {str(label): text for label, text in zip(labels, texts, strict=True)}
    used = {name.strip().strip("().").upper(): text for name, text in fields.items() if not is_absent(text)}
    letters = sorted(used)
    if not letters or "".join(letters) != ascii_uppercase[: len(letters)]:
        raise Rejected(Reason.WRONG_TYPE, f"{key} has the keys {shorten(list(fields))}: the letters A, B, … are needed")
    return _texts((used[letter] for letter in letters), key)
