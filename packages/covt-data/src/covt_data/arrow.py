"""The Arrow form of `covt_data.schema.Row`.

It carries the metadata by which Hugging Face `datasets` knows its `Image` feature, so that
`load_dataset("parquet", ...)` gives decoded pictures.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

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
