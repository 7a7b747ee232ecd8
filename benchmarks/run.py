"""Run benchmarks: `python benchmarks/run.py [NAME ...] [--json | --markdown] [--rounds N]`; without names all."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    parser.add_argument("--out", type=Path, help="file that holds the JSON of what is done, after every benchmark")
    parser.add_argument("--markdown", action="store_true", help="print the table of benchmarks/README.md")
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
    results: list[dict[str, Any]] = []
    for benchmark in chosen:
        print(f"{benchmark.name} …", file=sys.stderr)
        results.append(harness.measure(benchmark, options.rounds))
        if options.out:
            options.out.write_text(json.dumps(results, indent=2), encoding="utf-8")
        if not (options.json or options.markdown):
            print(harness.table(results[-1]), end="\n\n")
    if options.json:
        print(json.dumps(results[0] if len(results) == 1 else results, indent=2))
    if options.markdown:
        print(markdown(results, datetime.now(UTC).date().isoformat()))


def markdown(results: Sequence[dict[str, Any]], date: str) -> str:
    """One table of all cases, under the date, the device and the versions they were measured with."""
    versions = ", ".join(f"{name} {version}" for name, version in results[0]["versions"].items())
    lines = [f"{date}; {results[0]['device']}; {versions}", "", "| benchmark | case | ours | base | ratio |"]
    lines.append("|---|---|---|---|---|")
    for result in results:
        for number, entry in enumerate(result["results"]):
            headline = entry["case"] == result["headline"]["case"]
            cells = [f"`{result['name']}`" if number == 0 else "", entry["case"]]
            cells += [harness.side(entry, "ours"), harness.side(entry, "base")]
            ratio = f"{entry['ratio']:.2f}×"
            lines.append(f"| {' | '.join([*cells, f'**{ratio}**' if headline else ratio])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
