"""The algebra worker: a process that has sympy loaded and forks the child that answers, as often as it is needed.

Requests and replies are lines of JSON on standard input and output: `{"gold", "answer"?, "precision"?}` is answered by
`{"equal", "reason"}`, or by `{"gold_problem"}`. A byte on the control pipe ends the child, whatever it does, and a new
one takes its place in milliseconds: importing sympy takes a second, and is done once. A new child says `{"ready"}`.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import resource
import select
import signal
import sys
from functools import lru_cache
from typing import Any, Literal, NoReturn, TextIO

MEMORY_BYTES = 4 << 30
"""Address space of a worker: an answer that needs more fails by itself and costs nobody else their memory."""

SMALL = 1e-3
SMALL_TOLERANCE = 5e-3
"""A gold answer smaller than `SMALL` has to agree in its first digits, too."""

_MATHEMATICS = re.compile(r"[\d\\]")
"""What math-verify cannot parse it keeps as text; without any of these it is mere words."""


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load() -> None:
    """Import sympy and math-verify and let them fill their caches, once for all children."""
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    from covt_rewards.algebra.extraction import extract

    logging.disable(logging.CRITICAL)
    verify(extract(r"$\frac{x}{2}$"), extract(r"$\boxed{0.5x}$"), timeout_seconds=None)
    gc.collect()
    gc.freeze()  # the children share these pages as long as nobody writes to them


def _differ_though_small(gold: list[Any], found: list[Any]) -> bool:
    """Whether two numbers are equal to so many decimals only because there is nothing in these: 1.6e-19 and 1.7e-18."""
    try:
        a, b = float(gold[0]), float(found[0])
    except (TypeError, ValueError):
        return False
    return 0 < abs(a) < SMALL and abs(a - b) > SMALL_TOLERANCE * abs(a)


def serve(requests: TextIO, replies: TextIO, asked: bool) -> None:
    """Answer until the requests end. The pool keeps the time, so math-verify's own timers are off.

    Args:
        asked: whether the pool wants this child, rather than the last one having crashed.
    """
    # math-verify ships no types.
    from math_verify import verify  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    from covt_rewards.algebra.extraction import extract

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
        if equal and _differ_though_small(gold, found):
            equal = False
        return {"equal": equal, "reason": "" if equal else f"answered {str(found[-1])[:80]}"}

    # A crash may have left half a line.
    replies.write("\n" + json.dumps({"ready": True, "asked": asked}) + "\n")
    replies.flush()
    for line in requests:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            # Whatever an answer makes sympy raise is a verdict on the answer, and is reported as its reason.
            reply = {"equal": False, "reason": f"math-verify failed: {type(error).__name__}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _keep_a_child(control: int, requests: int, replies: int) -> None:
    """Fork a child, and another whenever it crashes or the pool asks, until the requests end or the pool is gone."""
    pool = os.getppid()
    asked = True
    while True:
        alive, life = os.pipe()  # ends when the child does: it alone holds `life`
        child = os.fork()
        if child == 0:
            os.close(alive)
            os.close(control)
            _be_the_child(requests, replies, asked)
        os.close(life)
        end = _wait(control, alive, pool)
        if end != "ended":
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(alive)
        if end == "pool gone" or (end == "ended" and status == 0):
            return
        asked = end == "asked"
        if asked:
            _discard(requests)


def _be_the_child(requests: int, replies: int, asked: bool) -> NoReturn:
    status = 1
    try:
        serve(os.fdopen(requests, encoding="utf-8"), os.fdopen(replies, "w", encoding="utf-8"), asked)
        status = 0
    finally:
        os._exit(status)  # never back into the parent's loop, whatever happened


def _wait(control: int, alive: int, pool: int) -> Literal["asked", "ended", "pool gone"]:
    """Until the pool asks for a new child, this one ends, or the pool's process is gone."""
    while os.getppid() == pool:
        ready, _, _ = select.select([control, alive], [], [], 1.0)
        if control in ready:
            return "asked" if os.read(control, 1) else "pool gone"
        if ready:
            return "ended"
    return "pool gone"


def _discard(requests: int) -> None:
    """Drop what the killed child has not read; the pool writes nothing until the next one is ready."""
    while select.select([requests], [], [], 0.0)[0] and os.read(requests, 1 << 16):
        pass


def main() -> None:
    control = int(sys.argv[1])
    _limit_memory()
    # What a library prints must not get between the replies.
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _load()
    _keep_a_child(control, sys.stdin.fileno(), replies)


if __name__ == "__main__":
    main()
