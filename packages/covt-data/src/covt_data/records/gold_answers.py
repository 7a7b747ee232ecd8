"""Decides what a gold answer is judged as, and whether its grader can read it, by the rule that rewards use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from covt_data.records.parsed_record import ParsedRecord
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.schema import Grader, Row
from covt_rewards import AccuracyReward, GoldError, Group, RewardError
from covt_rewards.accuracy.gold_kinds import choose_grader
from covt_rewards.tasks.vsp_plan import check_map, parse_plan, walk_plan

OPEN_GRADERS = ("boxes", "vsp")
"""Graders whose answers need not be one of the options."""

EXAMPLES = 10

_ACCURACY = AccuracyReward()


@dataclass(frozen=True)
class Judgment:
    """The grader of a record, and the options that it chooses from."""

    grader: Grader
    options: tuple[str, ...]


def judge_gold(record: ParsedRecord) -> Judgment:
    """Return the grader of a record and its options.

    Options written into the question count only when the gold answer names some of them: what looks like options may be
    parts of a figure. Options of their own field must be named, unless the record or the user names a grader.

    Raises:
        Rejected: when the grader cannot read the gold answer, with reason `bad_gold`.
    """
    options = record.options or record.written_options
    # Metadata of another kind may have an entry `rows` too.
    metadata = record.metadata if _has_map(record.metadata) else {}
    grader = choose_grader(record.answer, options, metadata, record.grader or "")
    if record.written_options and not record.options and grader != "choice":
        return judge_gold(replace(record, written_options=()))
    if record.options and record.grader is None and grader not in ("choice", *OPEN_GRADERS):
        raise Rejected(
            Reason.BAD_GOLD,
            f"answer = {shorten(record.answer)} names none of the {len(options)} options {shorten(list(options))}: "
            "write a letter or an option's text, or name another grader",
        )
    problem = find_gold_problem(Group(record.answer, (), grader=grader, options=options, metadata=record.metadata))
    if problem:
        raise Rejected(Reason.BAD_GOLD, f"answer = {shorten(record.answer)}, judged as {grader}: {problem}")
    return Judgment(cast("Grader", grader), options)


def find_gold_problem(group: Group) -> str:
    """Return why the grader of a group cannot use its gold answer; empty when it can.

    A plan must solve its map, although the map alone decides about completions.
    """
    try:
        _ACCURACY.check_gold(group)
    except GoldError as error:
        return error.message
    return "" if group.grader != "vsp" or _plan_works(group) else "the plan does not solve the map"


def _has_map(metadata: Mapping[str, object]) -> bool:
    try:
        check_map(metadata.get("rows"))
    except RewardError:
        return False
    return True


def _plan_works(group: Group) -> bool:
    moves = parse_plan(group.answer)
    return moves is not None and walk_plan(check_map(group.metadata.get("rows")), moves).success


def row_problem(row: Row) -> str:
    """Return why the grader of a row cannot read its gold answer; empty when it can."""
    return find_gold_problem(
        Group(row.answer, (), grader=row.grader, options=tuple(row.options), metadata=row.meta, id=row.id)
    )


def describe_bad_golds(problems: Sequence[tuple[str, str]]) -> str:
    """Return one line about gold answers that cannot be read: their number, and place and reason of the first ten.

    Args:
        problems: pairs of a place, such as `row a of train`, and a reason.
    """
    listed = "; ".join(f"{place}: {reason}" for place, reason in problems[:EXAMPLES])
    more = f"; and {len(problems) - EXAMPLES} more" if len(problems) > EXAMPLES else ""
    return f"{len(problems)} gold answer{'' if len(problems) == 1 else 's'} cannot be read: {listed}{more}"
