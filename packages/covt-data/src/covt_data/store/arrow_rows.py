"""The Arrow form of `covt_data.schema.Row`.

It has the metadata by which Hugging Face `datasets` recognizes its `Image` feature, so
`load_dataset("parquet", ...)` returns decoded images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from covt_data.data_errors import DataError
from covt_data.schema import SCHEMA_VERSION

_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_STEP = pa.struct([pa.field("type", pa.string()), pa.field("text", pa.string()), pa.field("images", pa.list_(_IMAGE))])


# `datasets` takes its features from the metadata only where the field equals its own: all fields are nullable.
_FIELDS: list[pa.Field[Any]] = [
    pa.field("id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("split", pa.string()),
    pa.field("category", pa.string()),
    pa.field("question", pa.string()),
    pa.field("images", pa.list_(_IMAGE)),
    pa.field("options", pa.list_(pa.string())),
    pa.field("answer", pa.string()),
    pa.field("grader", pa.string()),
    pa.field("steps", pa.list_(_STEP)),
    pa.field("metadata", pa.string()),
]


def _huggingface_metadata() -> str:
    """The `Features` of `datasets` (4.0 or later) for these fields, in the form it writes into Parquet files."""
    string: dict[str, Any] = {"dtype": "string", "_type": "Value"}

    def list_of(feature: dict[str, Any]) -> dict[str, Any]:
        return {"feature": feature, "_type": "List"}

    images = list_of({"_type": "Image"})
    features = {field.name: string for field in _FIELDS} | {
        "images": images,
        "options": list_of(string),
        "steps": list_of({"type": string, "text": string, "images": images}),
    }
    return json.dumps({"info": {"features": features}})


ARROW_SCHEMA: pa.Schema = pa.schema(
    _FIELDS, metadata={"huggingface": _huggingface_metadata(), "covt_schema_version": str(SCHEMA_VERSION)}
)


def build_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Build `pa.Table.from_pylist(rows, ARROW_SCHEMA)` without importing pandas, which takes half a second.

    Raises `DataError` where the images or texts of one column don't fit into the 2 GiB of an Arrow array.
    """
    columns = [_array([row[field.name] for row in rows], field.type) for field in ARROW_SCHEMA]
    return pa.Table.from_arrays(columns, schema=ARROW_SCHEMA)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array[Any]:
    """Strings, bytes, and lists and structs of them, from the buffers that Arrow's format has for each."""
    valid = np.array([value is not None for value in values], bool)
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if isinstance(kind, pa.StructType):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        children = [_array([value[field.name] for value in values], field.type) for field in fields]
        return pa.Array.from_buffers(kind, len(values), [bitmap], children=children)
    if isinstance(kind, pa.ListType):
        items = _array([item for value in values for item in value or ()], kind.value_type)
        return pa.Array.from_buffers(kind, len(values), [bitmap, _offsets(values)], children=[items])
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    content = pa.py_buffer(b"".join(value for value in encoded if value))
    return pa.Array.from_buffers(kind, len(values), [bitmap, _offsets(encoded), content])


def _offsets(values: Sequence[Any]) -> pa.Buffer:
    """Return the offset at which each value begins, and the end of the last."""
    ends = np.cumsum([0, *(len(value or ()) for value in values)], dtype=np.int64)
    if ends[-1] > np.iinfo(np.int32).max:
        raise DataError(f"{len(values)} rows have {ends[-1]} bytes in one column", "leave out the largest images")
    return pa.py_buffer(ends.astype(np.int32))
