"""Traces of chosen steps, read back."""

import json
from pathlib import Path

import torch

from covt_runtime.engine.profiler import StepProfiler


def test_the_chosen_steps_are_traced_and_the_others_are_not(tmp_path: Path):
    profiler = StepProfiler(tmp_path / "traces", (2,), rank=1)
    for step in (1, 2, 3):
        with profiler.trace(step):
            torch.ones(4, 4) @ torch.ones(4, 4)
    (path,) = (tmp_path / "traces").iterdir()
    assert path.name == "rank1-step2.json"
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {"step 2", "aten::matmul"} <= names


def test_without_a_folder_nothing_is_traced(tmp_path: Path):
    profiler = StepProfiler(None, (1,), rank=0)
    with profiler.trace(1):
        torch.ones(1)
    assert profiler.trace_path(1) is None
