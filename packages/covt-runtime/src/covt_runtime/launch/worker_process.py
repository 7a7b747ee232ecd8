"""A worker process: `python -m covt_runtime.launch.worker_process EVENT_FD`.

Only `covt_runtime.launch.workers` starts it.

Commands arrive as JSON lines on stdin: {"target": "pkg.module:function", "payload": {...}}. Messages go back as JSON
lines on EVENT_FD: ready, event, result, error. The end of stdin means that the parent is gone or done. It ends this
process and everything that it started, at once.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covt_runtime.launch.distributed import Worker, join_group


def resolve_target(target: str) -> Callable[[dict[str, Any], Worker], Any]:
    """The function named by "pkg.module:function"."""
    module_name, _, function_name = target.partition(":")
    function = getattr(importlib.import_module(module_name), function_name, None)
    if not callable(function):
        raise TypeError(f"{target} doesn't name a function")
    return function


def describe_error(error: BaseException) -> dict[str, Any]:
    """An error as a message to the parent; `remedy` is None unless it is a user error."""
    return {
        "kind": "error",
        "name": type(error).__name__,
        "message": str(error),
        "remedy": getattr(error, "remedy", None),
        "traceback": "".join(traceback.format_exception(error)),
    }


class Channel:
    """The pipe to the parent."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "w", encoding="utf-8")
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message)
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()


def _read_commands(commands: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    # This rank may be stuck in a collective that no other rank will join, so it can't end in order.
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    # Ctrl-C reaches the parent too, which decides. A worker that dies by itself would look like a crash.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(int(sys.argv[1]))
    commands: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True, name="commands").start()
    try:
        worker = join_group(
            log_dir=Path(os.environ["COVT_LOG_DIR"]),
            init_method=os.environ["COVT_INIT_METHOD"],
            timeout_minutes=float(os.environ["COVT_COLLECTIVE_MINUTES"]),
            emit=lambda event: channel.send({"kind": "event", "event": event}),
        )
        for module in os.environ["COVT_PRELOAD"].split(","):
            importlib.import_module(module)
        channel.send({"kind": "ready"})
        while True:
            command = commands.get()
            result = resolve_target(command["target"])(command["payload"], worker)
            gc.collect()
            worker.barrier()
            channel.send({"kind": "result", "value": result if worker.is_main else None})
    except BaseException as error:
        channel.send(describe_error(error))
        try:
            traceback.print_exc()
            sys.stdout.flush()
        finally:
            # Even if the log's disk is full. This skips destructors: a process group's would wait for dead ranks.
            os._exit(1)


if __name__ == "__main__":
    main()
