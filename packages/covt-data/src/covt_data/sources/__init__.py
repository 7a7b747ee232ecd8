"""The registry of sources. A source is one module here with a `SOURCE`; it is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from covt_data.sources.base import RecordSource, Source, SourceOptions, SplitRows

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
    """The source registered as `name` (a key of `SOURCES`)."""
    source = import_module(SOURCES[name]).SOURCE
    assert isinstance(source, Source | RecordSource)
    return source
