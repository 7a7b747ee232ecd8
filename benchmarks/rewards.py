"""Grading real responses: covt-rewards' accuracy against plain math-verify in a loop and TRL's accuracy reward.

The responses are those of several models on MATH-Vision and MathVista, and Math-Verify's own test cases, from the
folder of third-party data beside the checkout (or COVT_SHARED_DATA). Costs are wall seconds for a set, everything
imported and all workers started. One core or two are what the whole process tree may use.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import Benchmark, Case

HEADLINE = "MATH-Vision, 901 responses, two cores, math-verify"
Pairs = list[tuple[str, str]]


def responses() -> dict[str, Pairs]:
    """Per set, pairs of gold answer and response, all graded as mathematics without their options."""
    root = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("COVT_SHARED_DATA", root)) / "reference_vectors"
    if not folder.is_dir():
        raise SystemExit(f"the responses are not at {folder}; set COVT_SHARED_DATA")

    def read(name: str, gold: str, text: str, free: str = "") -> Pairs:
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [(row[gold], row[text]) for row in rows if not (free and row[free])]

    sets = {
        "MATH-Vision": read("mathvision_graded_responses", "answer", "response"),
        "MATH-Vision free form": read("mathvision_graded_responses", "answer", "response", "options"),
        "MathVista free form": read("mathvista_bard_scored", "answer", "response", "choices"),
        "Math-Verify's cases": read("math_verify_cases", "gold", "pred"),
    }
    return {f"{name}, {len(pairs)} responses": pairs for name, pairs in sets.items()}


def covt(pairs: Pairs, workers: int) -> None:
    from covt_rewards import Group, Rollout, parse_rewards, score_groups

    rewards = parse_rewards("accuracy", {"accuracy": {"grader": "math", "time_limit": 30.0}})
    scores = score_groups([Group(gold, (Rollout(text),)) for gold, text in pairs], rewards, workers)
    assert len(scores.groups) == len(pairs)


def math_verify(pairs: Pairs) -> None:
    from math_verify import parse, verify

    for gold, text in pairs:
        verify(parse(gold), parse(text))


def trl(pairs: Pairs) -> None:
    from trl.rewards.accuracy_rewards import accuracy_reward

    accuracy_reward([[{"content": text}] for _, text in pairs], [gold for gold, _ in pairs])


ALL_CORES = os.sched_getaffinity(0)


def pin(cores: set[int]) -> None:
    """Restrict this process and its workers; threads and workers started later inherit it."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    for process in (own, *map(int, children)):
        os.sched_setaffinity(process, cores)


def timed(work: Callable[[], None], cores: int) -> float:
    """Seconds of `work` on so many cores."""
    pin(set(sorted(ALL_CORES)[:cores]))
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    pin(ALL_CORES)
    return seconds


@contextmanager
def cases() -> Iterator[list[Case]]:
    sets = responses()
    warm_up: Pairs = [(rf"$\frac{{x}}{{{n}}}$", rf"\boxed{{\frac{{{n}x}}{{{n * n}}}}}") for n in range(2, 40)]
    for work in (lambda: covt(warm_up, 2), lambda: math_verify(warm_up), lambda: trl(warm_up)):
        work()
    found: list[Case] = []
    for name, pairs in sets.items():
        for cores, word in ((1, "one core"), (2, "two cores")):
            for base, label in ((math_verify, "math-verify"), (trl, "TRL")):
                found.append(
                    Case(
                        name=f"{name}, {word}, {label}",
                        ours=lambda pairs=pairs, cores=cores: timed(lambda: covt(pairs, cores), cores),
                        base=lambda pairs=pairs, cores=cores, base=base: timed(lambda: base(pairs), cores),
                    )
                )
    yield found


BENCHMARK = Benchmark(
    name="rewards",
    about="grading real responses, against math-verify in a loop and TRL's accuracy reward",
    headline=HEADLINE,
    cases=cases,
    rounds=5,
)

if __name__ == "__main__":
    harness.main(BENCHMARK)
