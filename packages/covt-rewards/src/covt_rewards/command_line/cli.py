"""The commands `covt-rewards score`, `list` and `explain`."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn, TextIO

from covt_rewards.accuracy.graders import GRADERS
from covt_rewards.command_line.explain import explain
from covt_rewards.command_line.rows import Row, RowProblems, name_source, read_rows
from covt_rewards.command_line.settings import parse_settings, read_latent_format
from covt_rewards.command_line.summary import Summary
from covt_rewards.registry import BUILTIN, available, load, parse_rewards
from covt_rewards.reward_errors import RewardError
from covt_rewards.score import GroupScore, iter_scores
from covt_rewards.types import Group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a closed pipe, 2 for a user error, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    stdout: TextIO = sys.stdout
    if isinstance(stdout, TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")  # a reason may quote half a surrogate pair
    try:
        options.run(options)
    except RewardError as error:
        print(f"covt-rewards: {error.message}; {error.remedy}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (such as `head`) has closed the pipe; keep the interpreter from reporting it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"covt-rewards: {error}; check the path and the free disk space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("covt-rewards: stopped before the end", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="covt-rewards", description="Group-aware rewards for visual reasoning RL.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="score the completions of a JSONL file")
    score.add_argument("rows", metavar="IN.jsonl", help='rows {"id", "answer", "completions": [...]}; - for stdin')
    score.add_argument("--rewards", default="format,accuracy", help="names with weights, such as format,accuracy=1.0")
    graders = f"for rows that name none: {', '.join(GRADERS)}; by default chosen for each row"
    score.add_argument("--grader", default="", choices=GRADERS, metavar="GRADER", help=graders)
    settings = "a setting of a reward, such as necessity.w_harm=0.25; see explain"
    score.add_argument("--set", action="append", default=[], metavar="REWARD.KEY=VALUE", help=settings)
    score.add_argument("--latents-of", metavar="CHECKPOINT", help="check latent spans by this checkpoint's token ids")
    score.add_argument("--workers", type=_positive, default=1, metavar="N", help="groups scored at once")
    score.add_argument("--out", type=Path, metavar="OUT.jsonl", help="file for the scored rows")
    score.add_argument("--json", action="store_true", help="print JSON: the rows, or with --out the summary")
    score.set_defaults(run=_score)

    names = commands.add_parser("list", help="list the rewards")
    names.add_argument("--json", action="store_true", help="print names and origins as JSON")
    names.set_defaults(run=_list)

    explain = commands.add_parser("explain", help="print what a reward scores, and its settings")
    explain.add_argument("name", metavar="NAME")
    explain.set_defaults(run=_explain)
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports a usage error in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        print(f"covt-rewards: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _score(options: argparse.Namespace) -> None:
    settings = parse_settings(options.set)
    common = {"latent": read_latent_format(options.latents_of)} if options.latents_of else {}
    rewards = parse_rewards(options.rewards, settings, common)
    summary = Summary(rewards)
    problems = RowProblems()
    rows: deque[Row] = deque()
    groups = _queue_rows(read_rows(options.rows, problems, options.grader), rows)
    with _open_output(options) as out:
        for score in iter_scores(groups, rewards, options.workers):
            row = rows.popleft()
            if score.gold_problem:
                problems.add(f"{row.where} (id {row.id!r}): {score.gold_problem}", "correct or drop the row")
                continue
            if out is not None:
                out.write(_format_row(score, row.id) + "\n")
            summary.add(score)
            summary.show_progress(sys.stderr, time.monotonic())
        summary.end_progress(sys.stderr)
        problems.check(name_source(options.rows))
    if options.out and options.json:
        print(json.dumps(summary.to_json()))
    else:
        print(summary.table(), file=sys.stderr if options.json else sys.stdout)


def _queue_rows(rows: Iterable[Row], queue: deque[Row]) -> Iterator[Group]:
    """Yield the groups and queue the rows, whose place and id the output names; scores come back in the same order."""
    for row in rows:
        queue.append(row)
        yield row.group


def _format_row(score: GroupScore, identifier: object) -> str:
    return json.dumps({**score.to_json(), "id": identifier})


@contextmanager
def _open_output(options: argparse.Namespace) -> Generator[TextIO | None]:
    """Open the file for the rows, which is complete or absent; stdout with only --json; None without either."""
    if options.out is None:
        yield sys.stdout if options.json else None
        return
    target: Path = options.out
    if not target.parent.is_dir():
        raise RewardError(f"there is no folder {target.parent}", "create it first")
    with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        partial = Path(file.name)
        try:
            yield file.file  # pyright: ignore[reportReturnType] the text file inside the wrapper
            file.close()
            partial.chmod(0o644)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _list(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps([{"name": name, "from": origin} for name, origin in available().items()]))
        return
    for name, origin in available().items():
        print(f"{name:16} {_summarize(name, origin)}")


def _summarize(name: str, origin: str) -> str:
    """Take the first line of the documentation; built-in rewards have theirs in the module's docstring."""
    try:
        target = load(name)
    except RewardError as error:  # one broken package must not hide the other rewards
        return f"cannot be used: {error.message}"
    doc = inspect.getdoc(inspect.getmodule(target)) if name in BUILTIN else inspect.getdoc(target)
    line = (doc or "").partition("\n")[0]
    return (line.partition("`: ")[2] or line) + ("" if name in BUILTIN else f" ({origin})")


def _explain(options: argparse.Namespace) -> None:
    print(explain(options.name))


if __name__ == "__main__":
    sys.exit(main())
