"""Reads the images of a record: paths, bytes, structs of both, and lists of these."""

from __future__ import annotations

import base64
import binascii
import json
import re

from covt_data.records.field_values import as_list, as_object, is_absent
from covt_data.records.parsed_record import EmbeddedImage, ImageRef
from covt_data.rejects import Reason, Rejected, shorten

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def get_image_refs(value: object, key: str) -> tuple[ImageRef, ...]:
    """Return the images of a field.

    Args:
        value: a path, encoded bytes, a `data:` URL, `{bytes, path}`, a list of these (also as JSON text), or nothing.
        key: name of the field, for messages.

    Raises:
        Rejected: for another value, or for a list in which some entries are empty and others are not.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json_list(value)
    entries = as_list(value)
    if entries is None:
        return () if _is_empty(value) else (_image_ref(value, key),)
    if all(_is_empty(entry) for entry in entries):
        return ()
    for number, entry in enumerate(entries):
        if _is_empty(entry):
            raise Rejected(Reason.IMAGE_MISSING, f"{key}[{number}] is empty, and other entries are not")
    return tuple(_image_ref(entry, key) for entry in entries)


def _json_list(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except ValueError:
        return text
    return parsed if as_list(parsed) is not None else text


def _is_empty(value: object) -> bool:
    """Whether a value stands for no image: null, NaN, blank, or a struct of nulls, as Parquet writes unused columns."""
    if isinstance(value, str | bytes):
        return not value.strip() if isinstance(value, str) else False
    fields = as_object(value)
    return is_absent(value) or (fields is not None and all(entry is None for entry in fields.values()))


def _image_ref(item: object, key: str) -> ImageRef:
    if isinstance(item, bytes):
        return EmbeddedImage(item)
    if isinstance(item, str):
        marker = DATA_URL.match(item)
        return _decoded(item[marker.end() :], key) if marker else item
    fields = as_object(item) or {}
    data, path = fields.get("bytes"), fields.get("path")
    if isinstance(data, bytes):
        return EmbeddedImage(data, path if isinstance(path, str) else "")
    if isinstance(path, str) and data is None:
        return path
    raise Rejected(
        Reason.WRONG_TYPE, f"{key} = {shorten(item)} is not an image: write a path, bytes or {{bytes, path}}"
    )


def _decoded(text: str, key: str) -> EmbeddedImage:
    try:
        return EmbeddedImage(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Rejected(Reason.IMAGE_UNREADABLE, f"{key} is a data URL that is not base64: {error}") from None
