"""The server from which converter processes are forked. It imports their modules only once."""

from __future__ import annotations

from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext

PRELOADED = ("covt_data.ingest.convert",)


def start_fork_server() -> ForkServerContext:
    """Start the server unless it is running. An early call hides the time of its imports.

    Forking this process directly would be unsafe, because it may have threads.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()
    return context
