"""Progress for people: bars on a terminal, plain lines anywhere else. Everything goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TextIO

LINE_SECONDS = 10.0
"""Time between the lines of a phase where there is no terminal."""
PACE_SECONDS = 5.0
"""Shortest time from which the pace of a phase is estimated."""


def phase_event(name: str, total: int | None = None, unit: str = "step") -> dict[str, Any]:
    """The event of a phase that begins, which ends the phase before it; `total` is None where it is unknown."""
    return {"event": "phase", "name": name, "total": total, "unit": unit}


def advance_event(done: int, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The event of `done` units of the phase being done, with values to show beside it."""
    return {"event": "advance", "done": done, "values": dict(values or {})}


def note_event(text: str) -> dict[str, Any]:
    """The event of a line of text to show."""
    return {"event": "note", "text": text}


def duration(seconds: float) -> str:
    """5 s, 1 min 05 s, 2 h 03 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def describe_values(values: Mapping[str, Any]) -> str:
    """loss 0.123, stage loading"""
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


class Phase:
    """A named piece of work, of which `done` of `total` units are done; `total` is None where it is unknown."""

    def __init__(self, name: str, total: float | None, unit: str, view: View) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0.0
        self.values: dict[str, Any] = {}
        self.started = time.monotonic()
        # When the first units were done, and how many.
        self._first: tuple[float, float] | None = None
        self._view = view
        view.begin(self)

    def advance(self, n: float = 1, **values: Any) -> None:
        """`n` more units are done; `values` are shown beside the bar."""
        self.update(self.done + n, **values)

    def update(self, done: float, **values: Any) -> None:
        """`done` units are done in total."""
        if self._first is None or done < self._first[1]:
            self._first = (time.monotonic(), done) if done else None
        self.done = done
        self.values |= values
        self._view.change(self)

    def part(self, name: str, done: float, total: float) -> None:
        """Progress of one of several consecutive parts, each with its own total."""
        self.total = total
        self.update(done, part=name)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace since the first units were done; before them, work is only prepared."""
        if not self.total or self._first is None:
            return None
        begun, before = self._first
        seconds = time.monotonic() - begun
        if self.done <= before or seconds < PACE_SECONDS:
            return None
        return seconds * max(0.0, self.total - self.done) / (self.done - before)

    def finish(self, failed: bool = False) -> None:
        self._view.end(self, failed)


class View(Protocol):
    """Where phases are shown."""

    def begin(self, phase: Phase) -> None: ...
    def change(self, phase: Phase) -> None: ...
    def end(self, phase: Phase, failed: bool) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class LineView:
    """A line when a phase begins, a line when it ends, and one every ten seconds in between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0

    def begin(self, phase: Phase) -> None:
        self._last = time.monotonic()
        total = f" ({phase.total:g} {phase.unit}s)" if phase.total else ""
        self.note(f"{phase.name}{total} …")

    def change(self, phase: Phase) -> None:
        if time.monotonic() - self._last < LINE_SECONDS:
            return
        self._last = time.monotonic()
        counted = f"{phase.done:g}/{phase.total:g}" if phase.total else f"{phase.done:g}"
        left = phase.seconds_left
        parts = [counted, describe_values(phase.values), f"{duration(left)} left" if left is not None else ""]
        self.note(f"{phase.name}: " + ", ".join(part for part in parts if part))

    def end(self, phase: Phase, failed: bool) -> None:
        values = f", {describe_values(phase.values)}" if phase.values else ""
        self.note(f"{phase.name}: {'stopped after' if failed else 'done in'} {duration(phase.seconds)}{values}")

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class BarView:
    """A bar for each phase, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[state]}"))
        self._progress = Progress(*columns, console=Console(file=stream))
        self._tasks: dict[Phase, Any] = {}
        self._progress.start()

    def begin(self, phase: Phase) -> None:
        self._tasks[phase] = self._progress.add_task(phase.name, total=phase.total, state="")

    def change(self, phase: Phase) -> None:
        left = phase.seconds_left
        parts = [
            f"{phase.done:g}/{phase.total:g}" if phase.total else "",
            duration(phase.seconds),
            f"{duration(left)} left" if left is not None else "",
            describe_values(phase.values),
        ]
        state = "  ".join(part for part in parts if part)
        self._progress.update(self._tasks[phase], completed=phase.done, total=phase.total, state=state)

    def end(self, phase: Phase, failed: bool) -> None:
        parts = ["stopped after" if failed else "done in", duration(phase.seconds), describe_values(phase.values)]
        # A bar without a total keeps moving. It gets one here, so that it stops: full unless the phase failed.
        completed = phase.done if failed else phase.total or 1.0
        self._progress.update(
            self._tasks.pop(phase), total=phase.total or 1.0, completed=completed, state=" ".join(parts).rstrip()
        )

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


class QuietView:
    """Shows nothing."""

    def begin(self, phase: Phase) -> None:
        """Nothing to show."""

    def change(self, phase: Phase) -> None:
        """Nothing to show."""

    def end(self, phase: Phase, failed: bool) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Nothing to show."""

    def close(self) -> None:
        """Nothing to close."""


class Progress:
    """Context manager that shows phases. `handle` takes the events of worker processes."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._view: View = QuietView()
        self._handled: Phase | None = None

    def __enter__(self) -> Progress:
        if not self._quiet:
            self._view = BarView(self._stream) if self._stream.isatty() else LineView(self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_handled(failed=kind is not None)
        self._view.close()
        self._view = QuietView()

    @contextmanager
    def phase(self, name: str, total: float | None = None, unit: str = "step") -> Iterator[Phase]:
        """Show a phase while the block runs. A phase that a worker's event began ends here."""
        self._end_handled()
        phase = Phase(name, total, unit, self._view)
        try:
            yield phase
        except BaseException:
            phase.finish(failed=True)
            raise
        self._end_handled()
        phase.finish()

    def note(self, text: str) -> None:
        """Show a line of text above the bars."""
        self._view.note(text)

    def handle(self, event: Mapping[str, Any]) -> None:
        """Show an event of `phase_event`, `advance_event` or `note_event`; ignore others."""
        kind = event.get("event")
        if kind == "phase":
            self._end_handled()
            self._handled = Phase(event["name"], event.get("total"), event.get("unit", "step"), self._view)
        elif kind == "advance" and self._handled is not None:
            self._handled.update(event["done"], **event.get("values", {}))
        elif kind == "note":
            self.note(event["text"])

    def _end_handled(self, failed: bool = False) -> None:
        if self._handled is not None:
            self._handled.finish(failed)
            self._handled = None
