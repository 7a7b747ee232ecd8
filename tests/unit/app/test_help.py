"""The help of all commands as it stands on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from covt.main import ORDER, app


def all_commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, (*words, name))


COMMANDS = dict(all_commands(typer.main.get_command(app)))


def shown(words: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_whole_at_80_columns(words: tuple[str, ...]):
    text = shown(words)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "something is cut off"
    assert "--no-" not in text or words == ("data", "validate"), "a flag that is off without it needs no opposite"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_and_argument_is_explained(words: tuple[str, ...]):
    for parameter in COMMANDS[words].params:
        assert parameter.help, f"{' '.join(words)}: {parameter.name}"
        assert "<" not in parameter.help, "Markdown takes it for a tag and leaves it out"


def test_the_overview_has_one_line_a_command_in_the_order_of_the_work():
    rows = [line.strip("│ ").split(maxsplit=1) for line in shown(()).splitlines() if line.startswith("│ ")]
    assert [row[0] for row in rows if not row[0].startswith("--")] == list(ORDER)
