"""Run benchmarks: `python benchmarks/run.py [NAME ...] [--json] [--rounds N]`; without names all of them."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import harness

FOLDER = Path(__file__).parent
NOT_BENCHMARKS = {"run", "harness"}


def names() -> list[str]:
    """The benchmarks there are: files with a `BENCHMARK`."""
    found = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    return [name for name in found if "\nBENCHMARK = " in (FOLDER / f"{name}.py").read_text()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare covt with what it is built on.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names())}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    harness.add_options(parser)
    options = parser.parse_args()
    unknown = set(options.names) - set(names())
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    chosen = [importlib.import_module(name).BENCHMARK for name in options.names or names()]
    if options.list:
        for benchmark in chosen:
            print(f"{benchmark.name:<20} {benchmark.about}")
        return
    results = []
    for benchmark in chosen:
        print(f"{benchmark.name} …", file=sys.stderr)
        results.append(harness.measure(benchmark, options.rounds))
        if not options.json:
            print(harness.table(results[-1]), end="\n\n")
    if options.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=2))


if __name__ == "__main__":
    main()
