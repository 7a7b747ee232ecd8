"""The registry of data sources; modules are imported on first use. May not import store, stream, ingest or inspect.

To add a source:
1. Write one module here that ends with `SOURCE = RecordSource(...)` (files) or `SOURCE = Source(...)` (generated).
2. Derive its options from `FileOptions` or `SourceOptions`; every option has a default.
3. A `RecordSource` finds its files in `find` and turns one record into a `ParsedRecord` in `parse`.
4. A `Source` yields `SplitRows` from `splits`; the same options must give the same bytes.
5. Add one line to `SOURCES`: the name on the command line and the module.
"""

from __future__ import annotations

from importlib import import_module

from covt_data.sources.source_types import RecordSource, Source, SourceOptions, SplitRows

SOURCES: dict[str, str] = {
    "comt": "covt_data.sources.comt",
    "jsonl": "covt_data.sources.jsonl",
    "trace": "covt_data.sources.trace",
    "virl39k": "covt_data.sources.virl39k",
    "vsp": "covt_data.sources.vsp",
    "zebra-cot": "covt_data.sources.zebra_cot",
}
"""Name → module."""

__all__ = ["SOURCES", "RecordSource", "Source", "SourceOptions", "SplitRows", "load_source"]


def load_source(name: str) -> Source | RecordSource:
    """Import and return the source registered under `name`, a key of `SOURCES`."""
    source = import_module(SOURCES[name]).SOURCE
    assert isinstance(source, Source | RecordSource)
    return source
