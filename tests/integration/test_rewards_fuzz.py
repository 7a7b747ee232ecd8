"""Hostile completions through all graders: nothing raises, nothing is run as code, late workers are replaced."""

from pathlib import Path
from typing import Any

import hostile_answers
import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a completion might write, it would write here."""
    monkeypatch.chdir(tmp_path)


def check(found: dict[str, Any]) -> None:
    assert found["faults"] == []
    assert found["graded_right"] == 0


def test_hostile_completions_get_their_zero() -> None:
    check(hostile_answers.run(60, seed=7))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_hostile_completions_get_their_zero() -> None:
    found = hostile_answers.run(1_000, seed=0)
    check(found)
    assert found["workers_killed_and_replaced"] > 0
