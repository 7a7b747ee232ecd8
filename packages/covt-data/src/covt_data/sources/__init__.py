"""The registry of sources. A source is one module here with a `SOURCE`; it is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from covt_data.sources.base import Source, SourceOptions, SplitRows

SOURCES: dict[str, str] = {
    "trace": "covt_data.sources.trace",
    "vsp": "covt_data.sources.vsp",
}
"""Name → module."""

__all__ = ["SOURCES", "Source", "SourceOptions", "SplitRows", "load_source"]


def load_source(name: str) -> Source:
    """The source registered as `name` (a key of `SOURCES`)."""
    source = import_module(SOURCES[name]).SOURCE
    assert isinstance(source, Source)
    return source
