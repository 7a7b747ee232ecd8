"""The algebra worker: a process that loads sympy once and forks the children that answer.

Requests and replies are lines of JSON on standard input and output. `{"gold", "answer"?, "precision"?}` is answered
with `{"equal", "reason"}` or `{"gold_problem"}`. A byte on the control pipe kills the child whatever it does. A new
child takes its place within milliseconds, where importing sympy again would take a second, and sends `{"ready"}`.
"""

# Sympy and math-verify, imported in worker processes only, are not typed strictly.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false
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
"""Address space of a worker: an answer that needs more fails and leaves the machine's memory to others."""

SMALL = 1e-3
SMALL_TOLERANCE = 5e-3
"""An answer to a gold answer smaller than `SMALL` must also agree with it to this relative difference."""

_MATHEMATICS = re.compile(r"[\d\\]")
"""math-verify keeps what it cannot parse as text; without any of these characters that text is mere words."""


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load() -> None:
    """Import sympy and math-verify and fill their caches, once for all children."""
    from math_verify import verify

    from covt_rewards.algebra.extraction import extract

    logging.disable(logging.CRITICAL)
    verify(extract(r"$\frac{x}{2}$"), extract(r"$\boxed{0.5x}$"), timeout_seconds=None)
    gc.collect()
    gc.freeze()  # children share these pages as long as nobody writes to them


def _differ_though_small(gold: list[Any], found: list[Any], precision: int) -> bool:
    """Whether two numbers below 1 differ though math-verify takes them for equal.

    Their decimals may all be 0, as of 1.6e-19 and 1.7e-18. Of numbers beyond a float's range, such as 1/2010!, it
    compares nothing.
    """
    try:
        a, b = float(gold[0]), float(found[0])
    except (TypeError, ValueError, OverflowError):
        return False
    if a == 0 or b == 0:  # 1/2010! is below a float's range
        from sympy import Expr, N

        sides = gold[0], found[0]
        if not all(isinstance(side, Expr) and side.is_number and side.is_real for side in sides):
            return False
        a, b = (N(side, 30) for side in sides)
    if not (abs(a) < 1 and abs(b) < 1):
        return False
    is_apart = abs(a - b) > 2 * 10.0**-precision
    return bool(is_apart or (0 < abs(a) < SMALL and abs(a - b) > SMALL_TOLERANCE * abs(a)))


def serve(requests: TextIO, replies: TextIO, asked: bool) -> None:
    """Answer until the requests end. The pool keeps the time, so math-verify's own timers are off.

    Args:
        requests: lines of JSON.
        replies: one line of JSON per request.
        asked: whether the pool asked for this child; False when it replaces one that crashed.
    """
    # math-verify ships no types.
    from math_verify import verify

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
        if equal and _differ_though_small(gold, found, request["precision"]):
            equal = False
        return {"equal": equal, "reason": "" if equal else f"answered {str(found[-1])[:80]}"}

    # A crash may have left half a line.
    replies.write("\n" + json.dumps({"ready": True, "asked": asked}) + "\n")
    replies.flush()
    for line in requests:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            # Whatever sympy raises over an answer is a verdict on the answer, with the error as its reason.
            reply = {"equal": False, "reason": f"math-verify failed: {type(error).__name__}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _run_children(control: int, requests: int, replies: int) -> None:
    """Fork a child, and a new one when it crashes or the pool asks, until the requests end or the pool is gone."""
    pool = os.getppid()
    asked = True
    while True:
        alive, life = os.pipe()  # `alive` ends with the child, which alone holds `life`
        child = os.fork()
        if child == 0:
            os.close(alive)
            os.close(control)
            _run_child(requests, replies, asked)
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


def _run_child(requests: int, replies: int, asked: bool) -> NoReturn:
    status = 1
    try:
        serve(os.fdopen(requests, encoding="utf-8"), os.fdopen(replies, "w", encoding="utf-8"), asked)
        status = 0
    finally:
        os._exit(status)  # never return into the parent's loop


def _wait(control: int, alive: int, pool: int) -> Literal["asked", "ended", "pool gone"]:
    """Wait until the pool asks for a new child, this child ends, or the pool's process is gone."""
    while os.getppid() == pool:
        ready, _, _ = select.select([control, alive], [], [], 1.0)
        if control in ready:
            return "asked" if os.read(control, 1) else "pool gone"
        if ready:
            return "ended"
    return "pool gone"


def _discard(requests: int) -> None:
    """Drop what the killed child has not read; the pool writes nothing until the next child is ready."""
    while select.select([requests], [], [], 0.0)[0] and os.read(requests, 1 << 16):
        pass


def main() -> None:
    """Run the worker; the argument is the descriptor of the control pipe."""
    control = int(sys.argv[1])
    _limit_memory()
    # Output of libraries must not mix with the replies.
    replies = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _load()
    _run_children(control, sys.stdin.fileno(), replies)


if __name__ == "__main__":
    main()
