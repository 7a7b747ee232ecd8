"""Progress as plain lines, and events of workers."""

import io

import pytest

from covt_runtime import progress as module
from covt_runtime.progress import Progress, advance_event, duration, note_event, phase_event


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (65, "1 min 05 s"), (3599, "59 min 59 s"), (7380, "2 h 03 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_phase_says_when_it_begins_and_ends() -> None:
    out = io.StringIO()
    with Progress(stream=out) as progress, progress.phase("prepare", total=3, unit="row") as phase:
        phase.advance(2, loss=0.12345)
        phase.advance()
    assert out.getvalue() == "prepare (3 rows) …\nprepare: done in 0 s, loss 0.1235\n"


def test_lines_in_between_have_count_values_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    now = iter([0.0, 0.0, 30.0, 30.0, 30.0, 30.0, 60.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    with Progress(stream=out) as progress, progress.phase("train", total=90) as phase:
        phase.update(30, loss=2.0, stage="one")
    assert "train: 30/90, loss 2, stage one, 1 min 00 s left\n" in out.getvalue()


def test_a_failed_phase_does_not_say_done() -> None:
    out = io.StringIO()
    with pytest.raises(KeyError), Progress(stream=out) as progress, progress.phase("train"):
        raise KeyError
    assert out.getvalue() == "train …\ntrain: stopped after 0 s\n"


def test_events_of_workers_make_phases_that_end_with_the_next() -> None:
    out = io.StringIO()
    with Progress(stream=out) as progress:
        progress.handle(phase_event("stage1", 10))
        progress.handle(advance_event(10, {"loss": 1.0}))
        progress.handle(note_event("half way"))
        progress.handle(phase_event("stage2", 5))
        progress.handle({"event": "of somebody else"})
        with progress.phase("export"):
            pass
    assert out.getvalue().splitlines() == [
        "stage1 (10 steps) …",
        "half way",
        "stage1: done in 0 s, loss 1",
        "stage2 (5 steps) …",
        "stage2: done in 0 s",
        "export …",
        "export: done in 0 s",
    ]


def test_quiet_shows_nothing() -> None:
    out = io.StringIO()
    with Progress(quiet=True, stream=out) as progress, progress.phase("x"):
        progress.note("hidden")
    assert out.getvalue() == ""


def test_on_a_terminal_there_are_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    with Progress(stream=out) as progress, progress.phase("train", total=4) as phase:
        phase.update(4, loss=0.5)
    assert "train" in out.getvalue()
    assert "━" in out.getvalue()
    assert "done in 0 s loss 0.5" in out.getvalue()
