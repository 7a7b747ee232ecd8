"""Traces of chosen optimizer steps by torch's profiler, one file for each rank and step.

A trace is Chrome trace JSON: open it in https://ui.perfetto.dev or chrome://tracing. Importing this needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DEFAULT_STEPS = (2, 3)
"""Optimizer steps to trace, counted from 1. The first step also allocates buffers, so it is not typical."""


class StepProfiler:
    """Traces the optimizer steps it is asked to, and costs nothing in the others.

    Args:
        folder: where the traces go; None traces nothing.
        steps: numbers of the steps to trace, counted from 1.
        rank: the rank of this process.
    """

    def __init__(self, folder: Path | None, steps: Sequence[int] = DEFAULT_STEPS, *, rank: int) -> None:
        self.folder = folder
        self.steps = frozenset(steps)
        self.rank = rank

    def trace_path(self, step: int) -> Path | None:
        """The file that the trace of a step goes to; None for a step that is not traced."""
        if self.folder is None or step not in self.steps:
            return None
        return self.folder / f"rank{self.rank}-step{step}.json"

    @contextmanager
    def trace(self, step: int) -> Iterator[None]:
        """Trace the block, if it is one of the chosen steps, and write its file at the end."""
        path = self.trace_path(step)
        if path is None:
            yield
            return
        from torch.profiler import ProfilerActivity, profile, record_function, supported_activities

        wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & set(supported_activities())
        with (
            profile(activities=sorted(wanted, key=str), record_shapes=True) as profiler,
            record_function(f"step {step}"),
        ):
            yield
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
