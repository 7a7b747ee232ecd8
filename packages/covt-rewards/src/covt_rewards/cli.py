"""`covt-rewards score | list | explain`: the package on the command line."""

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
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TextIO

from covt_rewards.accuracy.grade import GRADERS
from covt_rewards.errors import RewardError
from covt_rewards.registry import available, load, parse_rewards, setting_names
from covt_rewards.rows import read_rows
from covt_rewards.score import GroupScore, iter_scores
from covt_rewards.settings import parse_settings, read_latent_format
from covt_rewards.summary import Summary
from covt_rewards.types import Group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 2 for a mistake of the user's, or 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except RewardError as error:
        print(f"covt-rewards: {error.message}; {error.remedy}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (such as `head`) has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"covt-rewards: {error}; check the path and the free disk space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("covt-rewards: stopped, nothing written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="covt-rewards", description="Rewards for visual reasoning RL, in groups.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    score = commands.add_parser("score", help="score the completions of a JSONL file")
    score.add_argument("rows", metavar="IN.jsonl", help='rows {"id", "answer", "completions": [...]}; - for stdin')
    score.add_argument("--rewards", default="format,accuracy", help="names with weights, such as format,accuracy=1.0")
    score.add_argument("--grader", default="", choices=("", *GRADERS), help="for rows that name none")
    score.add_argument("--set", action="append", default=[], metavar="REWARD.KEY=VALUE", help="a setting of a reward")
    score.add_argument("--latents-of", metavar="CHECKPOINT", help="judge latent spans by this checkpoint's token ids")
    score.add_argument("--workers", type=_positive, default=1, help="groups scored at once")
    score.add_argument("--out", type=Path, metavar="OUT.jsonl", help="where the scored rows go")
    score.add_argument("--json", action="store_true", help="JSON on stdout: the rows, or with --out the summary")
    score.set_defaults(run=_score)

    names = commands.add_parser("list", help="the rewards there are")
    names.add_argument("--json", action="store_true")
    names.set_defaults(run=_list)

    explain = commands.add_parser("explain", help="what a reward scores, and its settings")
    explain.add_argument("name")
    explain.set_defaults(run=_explain)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _score(options: argparse.Namespace) -> None:
    settings = parse_settings(options.set)
    common = {"latent": read_latent_format(options.latents_of)} if options.latents_of else {}
    rewards = parse_rewards(options.rewards, settings, common)
    summary = Summary(rewards)
    identifiers: deque[object] = deque()
    groups = _groups(read_rows(options.rows, options.grader), identifiers)
    with _output(options) as out:
        for score in iter_scores(groups, rewards, options.workers, raise_gold=True):
            if out is not None:
                out.write(_row(score, identifiers[0]) + "\n")
            identifiers.popleft()
            summary.add(score)
            summary.show_progress(sys.stderr, time.monotonic())
    summary.end_progress(sys.stderr)
    if options.out and options.json:
        print(json.dumps(summary.to_json()))
    else:
        print(summary.table(), file=sys.stderr if options.json else sys.stdout)


def _groups(rows: Iterable[tuple[object, Group]], identifiers: deque[object]) -> Iterator[Group]:
    """The groups, leaving each row's own id for the output: scores come back in order."""
    for identifier, group in rows:
        identifiers.append(identifier)
        yield group


def _row(score: GroupScore, identifier: object) -> str:
    return json.dumps({**score.to_json(), "id": identifier})


@contextmanager
def _output(options: argparse.Namespace) -> Generator[TextIO | None]:
    """The file rows are written to: complete or absent; stdout with --json alone; None without either."""
    if options.out is None:
        yield sys.stdout if options.json else None
        return
    target: Path = options.out
    if not target.parent.is_dir():
        raise RewardError(f"there is no folder {target.parent}", "make it first")
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
    for name in available():
        print(f"{name:16} {_first_line(inspect.getdoc(inspect.getmodule(load(name))) or inspect.getdoc(load(name)))}")


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0].partition("`: ")[2] or (text or "").partition("\n")[0]


def _explain(options: argparse.Namespace) -> None:
    target = load(options.name)
    module = inspect.getdoc(inspect.getmodule(target)) if inspect.isclass(target) else None
    print("\n\n".join(text for text in (module, inspect.getdoc(target)) if text))
    if inspect.isclass(target) and is_dataclass(target):
        print("\nSettings (--set", f"{options.name}.KEY=VALUE):")
        for setting in fields(target):
            default = setting.default if setting.default is not MISSING else "its own defaults"
            print(f"  {setting.name} = {default!r}" if default is setting.default else f"  {setting.name}: {default}")
    elif setting_names(target):
        print("\nSettings:", ", ".join(setting_names(target) or ()))


if __name__ == "__main__":
    sys.exit(main())
