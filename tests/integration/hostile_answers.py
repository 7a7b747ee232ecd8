"""A generator of hostile completions; run as a script it grades so many of them and prints counts as JSON."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from covt_rewards import Group, Rollout, parse_rewards, score_groups
from covt_rewards.algebra.worker_pool import shared_pool

LIMIT = 0.5
GRACE = 2.0
"""Seconds beyond the limit that are a fault: other processes may take the processor for a while."""
CANARY = "hostile_answer_was_executed"
BOXES = '[{"bbox_2d": [0, 0, 99, 99], "point_2d": [50, 50]}]'
GOLDS = [
    Group(r"\frac{7}{3}", ()),
    Group("x^2 + 1", ()),
    Group("42", ()),
    Group("B", (), options=("a cat", "a dog", "3")),
    Group("B3", (), grader="text"),
    Group("", (), metadata={"rows": ["SFH", "FGF", "FFF"]}),
    Group(BOXES, ()),
]
CODE = [
    f"__import__('os').system('touch {CANARY}')",
    f"open('{CANARY}','w')",
    f"exec(\"open('{CANARY}','w')\")",
    rf"\write18{{touch {CANARY}}}",
    f"eval(compile(\"open('{CANARY}','w')\",'','exec'))",
    f"().__class__.__bases__[0].__subclasses__(); touch {CANARY}",
]
PIECES = [
    r"\frac{",
    r"\sqrt[",
    "^{",
    "_{",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "9",
    "x",
    "!",
    r"\int",
    r"\sum_{i=1}^{",
    "=",
    "<",
    ",",
]
ODD = ["\x00", "\ud800", "\udfff", "\u202e", "\ufeff", "\x1b[2J", "٣", "𝟗", "ﬁ", "\u2028", "\r", "\x7f", "💥", "İ"]


def tower(rng: random.Random) -> str:
    depth = rng.randint(2, 60)
    return "^{".join([str(rng.randint(2, 99))] * depth) + "}" * (depth - 1)


def nested(rng: random.Random) -> str:
    opening, closing = rng.choice(
        [("{", "}"), ("(", ")"), (r"\frac{1}{", "}"), (r"\sqrt{", "}"), ("[", "]"), (r"\left(", r"\right)"), ("-", "")]
    )
    depth = rng.choice([3, 30, 300, 3000])
    return opening * depth + "1" + closing * rng.choice([depth, depth, depth - 1, 0])


def computation(rng: random.Random) -> str:
    n = rng.choice([20, 10**3, 10**6, 10**12])
    forms = (
        f"{n}!",
        f"{n}!!!",
        rf"\sum_{{i=1}}^{{{n}}} i^{{i}}",
        rf"\prod_{{k=1}}^{{{n}}} k",
        rf"\binom{{{n}}}{{{n // 2}}}",
        r"\int_0^1 \sin(x^x) dx",
        rf"\lim_{{n\to\infty}} n^{{{n}}}",
        rf"(x+1)^{{{n}}}",
        rf"\sqrt[{n}]{{{n}}}",
        rf"\begin{{pmatrix}} {'1 & ' * 50} 1 \end{{pmatrix}}^{{{n}}}",
        f"1e{n}",
        f"0.{'3' * 500}",
        f"{n}^{n}^{n}",
    )
    return rng.choice(forms)


def pieces(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES + ODD) for _ in range(rng.choice([5, 50, 500])))


def odd(rng: random.Random) -> str:
    return "".join(rng.choice([*ODD, "7", "/", "3", " "]) for _ in range(rng.randint(1, 100)))


def repeated(rng: random.Random) -> str:
    unit = rng.choice(
        [
            r"\boxed{",
            "<answer>",
            "</answer>",
            "$",
            r"\(",
            "the answer is ",
            "\n",
            "x",
            "{",
            "9",
            "answer: $1$ ",
            "[",
            ".",
        ]
    )
    return unit * (rng.choice([10, 1000, 20_000]) // len(unit) + 1)


def huge(rng: random.Random) -> str:
    unit = rng.choice([r"\boxed{", "<answer>", "{", "x", "$x$ ", "<think>", "\n", "<|", "</think> "])
    return unit * (5_000_000 // len(unit))


def bomb(rng: random.Random) -> str:
    return rng.choice(
        [r"\def\a{\a\a}\a", r"\newcommand{\b}[1]{\b{#1}\b{#1}}\b{1}", r"\loop\iftrue\repeat", r"\input{/etc/passwd}"]
    )


def objects(rng: random.Random) -> str:
    number = rng.choice(["1e999", "NaN", "-Infinity", "9" * 6000, "null", '"1"', "[[[[", "0"])
    return "[" + ", ".join([f'{{"bbox_2d": [0, 0, {number}, 9], "point_2d": [1, 1]}}'] * rng.choice([1, 200])) + "]"


def code(rng: random.Random) -> str:
    return rng.choice(CODE)


KINDS: dict[str, tuple[int, Callable[[random.Random], str]]] = {
    "tower of powers": (10, tower),
    "deep nesting": (12, nested),
    "heavy computation": (10, computation),
    "pieces of LaTeX": (20, pieces),
    "null bytes, surrogates, odd letters": (20, odd),
    "repetition": (12, repeated),
    "LaTeX bomb": (5, bomb),
    "objects": (5, objects),
    "code": (8, code),
    "5 MB": (0, huge),
}
FRAMES = [
    r"\boxed{%s}",
    "<answer>%s</answer>",
    "The answer is %s",
    "%s",
    r"$\boxed{%s}$ or $\boxed{%s}$",
    "<think>%s</think>",
]


def hostile(rng: random.Random) -> tuple[str, str]:
    """A kind and a completion; one in 400 is 5 MB long."""
    if rng.random() < 1 / 400:
        return "5 MB", huge(rng)
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    inner = KINDS[kind][1](rng)
    return kind, rng.choice(FRAMES).replace("%s", inner)


def run(count: int, seed: int) -> dict[str, object]:
    """Grade `count` completions one by one, each timed with all that it takes, a killed worker's successor too."""
    rng = random.Random(seed)
    rewards = "format,accuracy,reasoning,usage"
    configured = parse_rewards(rewards, {"accuracy": {"time_limit": LIMIT}})
    with_boxes = parse_rewards(f"{rewards},vision_reasoner", {"accuracy": {"time_limit": LIMIT}})
    pool = shared_pool()
    pool.verify("$x$", ["$x$"], 60.0)
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    taken: list[float] = []
    right = 0
    for number in range(count):
        gold = rng.choice(GOLDS)
        kind, text = hostile(rng)
        kinds[kind] += 1
        group = Group(gold.answer, (Rollout(text),), "", str(number), gold.grader, gold.options, gold.metadata)
        began = time.perf_counter()
        (score,) = score_groups([group], with_boxes if gold.answer == BOXES else configured).groups
        taken.append(time.perf_counter() - began)
        right += score.values["accuracy"][0] == 1.0
        if score.failures:
            faults.append(f"{number} {kind}: {score.failures} {text[:80]!r}")
        if any(not 0 <= values[0] <= 7 for values in score.values.values()):
            faults.append(f"{number} {kind}: {score.values}")
        if taken[-1] > LIMIT + GRACE:
            faults.append(f"{number} {kind}: {taken[-1]:.1f} s {text[:80]!r}")
    if Path(CANARY).exists():
        faults.append("code was executed")
    return {
        "completions": count,
        "kinds": dict(kinds),
        "faults": faults,
        "workers_killed_and_replaced": pool.killed,
        "time_limit": LIMIT,
        "slowest_seconds": round(max(taken), 3),
        "beyond_the_limit_by_a_tenth_of_a_second": sum(seconds > LIMIT + 0.1 for seconds in taken),
        "graded_right": right,
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0), indent=1))
