"""Reading the rows of `covt-rewards score` from JSON lines, with errors that name file, line and field."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO, cast

from covt_rewards.accuracy.graders import check_grader
from covt_rewards.reward_errors import RewardError
from covt_rewards.types import Group

MAX_SHOWN = 10
_HUGE = re.compile(r"-?(\d{4301,})")
_FIELD = re.compile(r'"(\w{1,60})"\s*:\s*-?\d{4301,}')


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        where: file and line.
        id: the row's id as it stands in the file.
        group: its group.
    """

    where: str
    id: object
    group: Group


@dataclass(slots=True)
class RowProblems:
    """The rows that cannot be scored: how many, and the first of them.

    Attributes:
        rows: rows read, good or bad.
        count: bad rows.
        first: the problems of the first `MAX_SHOWN` bad rows, each naming its row.
        remedy: what to do about the first.
    """

    rows: int = 0
    count: int = 0
    first: list[str] = field(default_factory=list[str])
    remedy: str = ""

    def add(self, problem: str, remedy: str) -> None:
        """Count a bad row."""
        self.count += 1
        self.remedy = self.remedy or remedy
        if len(self.first) < MAX_SHOWN:
            self.first.append(problem)

    def check(self, name: str) -> None:
        """Raise one `RewardError` for all bad rows, or for a file that holds no rows."""
        if not self.rows:
            raise RewardError(f"{name} holds no rows", "give a file with one JSON object per line")
        if self.count == 1:
            raise RewardError(self.first[0], self.remedy)
        if self.count:
            more = [f"and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
            listed = "\n  ".join([*self.first, *more])
            raise RewardError(
                f"{self.count} of {self.rows} rows cannot be scored", f"correct or drop them:\n  {listed}"
            )


def read_rows(path: str, problems: RowProblems, grader: str = "") -> Iterator[Row]:
    """Read rows one at a time; blank lines are skipped, and bad rows are added to `problems`.

    Args:
        path: a JSONL file, or `-` for standard input.
        problems: counts the rows and collects the bad ones.
        grader: for rows that name none.

    Raises:
        RewardError: for a missing file.
    """
    if path == "-":
        stdin: TextIO = sys.stdin
        if isinstance(stdin, TextIOWrapper):
            stdin.reconfigure(encoding="utf-8-sig", errors="replace")
        yield from _read_lines(cast("TextIO", stdin), name_source(path), problems, grader)
    elif not Path(path).is_file():
        raise RewardError(f"there is no file {path}", "give a JSONL file, or - for standard input")
    else:
        # Invalid bytes become replacement characters: a completion may contain anything.
        with Path(path).open(encoding="utf-8-sig", errors="replace") as lines:
            yield from _read_lines(lines, path, problems, grader)


def name_source(path: str) -> str:
    """Name the file as errors do."""
    return "standard input" if path == "-" else path


def _read_lines(lines: Iterable[str], name: str, problems: RowProblems, grader: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problems.rows += 1
        try:
            row = _read(line, f"{name}:{number}", grader)
        except RewardError as error:
            problems.add(error.message, error.remedy)
        else:
            yield row


def _read(line: str, where: str, grader: str) -> Row:
    try:
        record: object = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RewardError(f"{where} is not JSON: {error}", "write one JSON object per line") from error
    except ValueError as error:  # Python reads no integer of more than 4300 digits
        huge, named = _HUGE.search(line), _FIELD.search(line)
        digits = f"a number of {len(huge.group(1))} digits" if huge else str(error)
        message = f"{where}.{named.group(1)} is {digits}" if named else f"{where} holds {digits}"
        raise RewardError(message, "give numbers of at most 4300 digits") from error
    group = Group.from_json(record, where)
    given = cast("dict[str, object]", record).get("id")
    if given is None:
        raise RewardError(f"{where}.id is missing", "give each row an id")
    if group.grader:
        check_grader(group.grader, f"{where}.grader")
    return Row(where, given, group if group.grader else replace(group, grader=grader))
