"""Benchmarks interleave rounds, leave the warm-up out, and print what contract F says."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("harness", FOLDER / "harness.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "harness", module)
    spec.loader.exec_module(module)
    return module


def test_sides_take_turns_and_the_median_of_counted_rounds_decides(harness: ModuleType) -> None:
    calls: list[str] = []
    costs = {"ours": iter([100.0, 2.0, 4.0, 3.0]), "base": iter([0.0, 9.0, 6.0, 5.0])}

    def side(name: str) -> float:
        calls.append(name)
        return next(costs[name])

    @contextmanager
    def cases() -> Iterator[list[object]]:
        calls.append("set up")
        yield [harness.Case("work", lambda: side("ours"), lambda: side("base"))]
        calls.append("taken down")

    result = harness.measure(harness.Benchmark("name", "about", "work", cases, rounds=3))
    assert calls == ["set up", "base", "ours", "ours", "base", "base", "ours", "ours", "base", "taken down"]
    assert result["headline"] == {"case": "work", "ratio": 2.0}
    (entry,) = result["results"]
    assert (entry["ours"], entry["base"], entry["ratio"]) == (3.0, 6.0, 2.0)
    assert (entry["ours_range"], entry["base_range"]) == ([2.0, 4.0], [5.0, 9.0])
    assert result.keys() == {"name", "device", "versions", "results", "headline"}
    assert "work  3 s (2 s – 4 s)  6 s (5 s – 9 s)  2.00×" in harness.table(result)


@pytest.fixture
def runner(harness: ModuleType) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_runner", FOLDER / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_runner_finds_every_benchmark(runner: ModuleType) -> None:
    assert "zero_step" in runner.names()
    assert not {"run", "harness"} & set(runner.names())


def test_a_run_as_markdown_names_when_and_where_it_was_measured(harness: ModuleType, runner: ModuleType) -> None:
    @contextmanager
    def cases() -> Iterator[list[object]]:
        yield [harness.Case("fast", lambda: 0.5, lambda: 1.0), harness.Case("slow", lambda: 2.0, lambda: 1.0)]

    result = harness.measure(harness.Benchmark("name", "about", "fast", cases, rounds=1))
    lines = runner.markdown([result], "2026-01-02").splitlines()
    assert lines[0].startswith(f"2026-01-02; {result['device']}; python {sys.version.split()[0]}")
    assert lines[-2:] == [
        "| `name` | fast | 500 ms (500 ms – 500 ms) | 1 s (1 s – 1 s) | **2.00×** |",
        "|  | slow | 2 s (2 s – 2 s) | 1 s (1 s – 1 s) | 0.50× |",
    ]
