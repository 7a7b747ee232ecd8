"""Progress as plain lines, and events of workers."""

import io

import pytest

from covt_runtime.metrics import progress as module
from covt_runtime.metrics.progress import Progress, advance_event, duration, note_event, phase_event


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


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


def test_lines_in_between_have_count_values_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = Clock(monkeypatch), io.StringIO()
    with Progress(stream=out) as progress, progress.phase("train", total=90) as phase:
        for done in (10, 20, 40):
            clock.now += 15
            phase.update(done, loss=2.0, stage="one")
    lines = out.getvalue().splitlines()
    assert lines[1:] == [
        "train: 10/90, loss 2, stage one",
        "train: 20/90, loss 2, stage one, 1 min 45 s left",
        "train: 40/90, loss 2, stage one, 50 s left",
        "train: done in 45 s, loss 2, stage one",
    ]


def test_the_time_left_is_told_by_the_pace_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress(quiet=True) as progress, progress.phase("evaluate", total=200) as phase:
        clock.now += 60  # a server warms up
        phase.update(0)
        assert phase.seconds_left is None
        phase.update(100)  # of an earlier run
        assert phase.seconds_left is None
        clock.now += 1
        phase.update(164)  # all that were asked at once
        assert phase.seconds_left is None
        clock.now += 7
        assert phase.seconds_left == pytest.approx(8 * 36 / 64)


def test_each_part_has_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with Progress(quiet=True) as progress, progress.phase("fetch") as phase:
        for name, total in (("one", 300.0), ("two", 30.0)):
            for done in (0.1, 0.5):
                phase.part(name, done * total, total)
                assert (phase.seconds_left is None) == (done == 0.1)
                clock.now += 8
        assert phase.seconds_left == pytest.approx(16 * 15 / 12)


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
