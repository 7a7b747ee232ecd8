"""Reading the rows of `covt-rewards score` from JSON lines, with errors that name file, line and field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO, cast

from covt_rewards.accuracy.graders import check_grader
from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group


def read_rows(path: str, grader: str = "") -> Iterator[tuple[object, Group]]:
    """Read rows one at a time; blank lines are skipped.

    Args:
        path: a JSONL file, or `-` for standard input.
        grader: for rows that name none.

    Yields:
        The row's id as it stands in the file, and its group.

    Raises:
        RewardError: for a missing file or a malformed row, as `FILE:LINE.field …`.
    """
    if path == "-":
        stdin: TextIO = sys.stdin
        if isinstance(stdin, TextIOWrapper):
            stdin.reconfigure(encoding="utf-8", errors="replace")
        yield from _read_lines(cast("TextIO", stdin), "standard input", grader)
    elif not Path(path).is_file():
        raise RewardError(f"there is no file {path}", "give a JSONL file, or - for standard input")
    else:
        # Invalid bytes become replacement characters: a completion may contain anything.
        with Path(path).open(encoding="utf-8", errors="replace") as lines:
            yield from _read_lines(lines, path, grader)


def _read_lines(lines: Iterable[str], name: str, grader: str) -> Iterator[tuple[object, Group]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read(line, f"{name}:{number}", grader)


def _read(line: str, where: str, grader: str) -> tuple[object, Group]:
    try:
        record: object = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RewardError(f"{where} is not JSON: {error}", "write one JSON object per line") from error
    group = Group.from_json(record, where)
    given = cast("dict[str, object]", record).get("id")
    if given is None:
        raise RewardError(f"{where}.id is missing", "give each row an id")
    if group.grader:
        check_grader(group.grader, f"{where}.grader")
    return given, group if group.grader else replace(group, grader=grader)
