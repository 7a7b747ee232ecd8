"""Datasets for latent visual reasoning: one row type, prepared sets on disk, data sources and streams for training.

Public names are imported on first use, so importing this package loads neither pyarrow nor numpy.
Order of the folders, each of which imports only earlier ones: schema, data_errors and rejects; images; records; tasks;
store; sources; ingest; and stream, which uses the store but no source; inspect is on top. Of the other packages, only
covt_rewards may be imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from covt_data.data_errors import DataError, DataFileError
    from covt_data.images.pixel_limits import PixelLimits
    from covt_data.ingest.prepare import prepare
    from covt_data.inspect.validate_set import validate
    from covt_data.schema import Image, Row, Step
    from covt_data.store.manifest import Manifest
    from covt_data.store.prepared_set import PreparedSet
    from covt_data.stream.lazy_rows import LazyRows
    from covt_data.stream.row_stream import Part, RowStream

__all__ = [
    "DataError",
    "DataFileError",
    "Image",
    "LazyRows",
    "Manifest",
    "Part",
    "PixelLimits",
    "PreparedSet",
    "Row",
    "RowStream",
    "Step",
    "prepare",
    "validate",
]

_MODULES = {
    "DataError": "data_errors",
    "DataFileError": "data_errors",
    "Image": "schema",
    "LazyRows": "stream.lazy_rows",
    "Manifest": "store.manifest",
    "Part": "stream.row_stream",
    "PixelLimits": "images.pixel_limits",
    "PreparedSet": "store.prepared_set",
    "Row": "schema",
    "RowStream": "stream.row_stream",
    "Step": "schema",
    "prepare": "ingest.prepare",
    "validate": "inspect.validate_set",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
