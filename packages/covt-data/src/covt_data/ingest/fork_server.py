"""The server that converters are forked from. It imports what they need once, and little is imported to start it."""

from __future__ import annotations

from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext

PRELOADED = ("covt_data.ingest.convert",)


def start_fork_server() -> ForkServerContext:
    """Let the server begin its imports, where it doesn't run yet; calling this early saves waiting for them.

    This process may have threads, which a fork of it would not survive.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    return context
