"""The algebra worker: lines of JSON in and out, until the input ends.

`{"gold", "answer"?, "precision"?}` is answered by `{"equal", "reason"}`, or by `{"gold_problem"}`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import sys
import threading
import time
from functools import lru_cache
from typing import Any, TextIO

MEMORY_BYTES = 4 << 30
"""Address space of a worker: an answer that needs more fails by itself and costs nobody else their memory."""

_MATHEMATICS = re.compile(r"[\d\\]")
"""What math-verify cannot parse it keeps as text; without any of these it is mere words."""


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer until the requests end. The parent keeps the time, so math-verify's own timers are off."""
    # sympy takes a second to import: only workers pay for it. math-verify ships no types.
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    from covt_rewards.accuracy.extraction import extract

    logging.disable(logging.CRITICAL)
    gold_of = lru_cache(maxsize=4096)(extract)

    def answer(request: dict[str, Any]) -> dict[str, object]:
        try:
            gold = gold_of(request["gold"])
        except Exception as error:
            return {"gold_problem": f"math-verify failed: {type(error).__name__}"}
        if all(isinstance(item, str) and not _MATHEMATICS.search(item) for item in gold):
            return {"gold_problem": "math-verify finds no mathematics in it"}
        if "answer" not in request:
            return {"equal": False, "reason": ""}
        found = extract(request["answer"])
        if not found:
            return {"equal": False, "reason": "no answer found"}
        equal = bool(verify(gold, found, float_rounding=request["precision"], timeout_seconds=None))
        return {"equal": equal, "reason": "" if equal else f"answered {str(found[-1])[:80]}"}

    replies.write('{"ready": true}\n')
    replies.flush()
    for line in requests:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            # Whatever an answer makes sympy raise is a verdict on the answer, and is reported as its reason.
            reply = {"equal": False, "reason": f"math-verify failed: {type(error).__name__}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _end_with_parent() -> None:
    """End within a second of the parent, even in the middle of a computation."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    _limit_memory()
    _end_with_parent()
    # What a library prints must not get between the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
