"""Decides what a gold answer is judged as, and whether its grader can read it, by the rule that rewards use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from covt_data.records.parsed_record import ParsedRecord
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.schema import Grader
from covt_rewards import AccuracyReward, GoldError, Group
from covt_rewards.accuracy.graders import choose_grader

_ACCURACY = AccuracyReward()


@dataclass(frozen=True)
class Judgement:
    """The grader of a record, and the options that it chooses from."""

    grader: Grader
    options: tuple[str, ...]


def judge_gold(record: ParsedRecord) -> Judgement:
    """Return the grader of a record and its options.

    Options written into the question count only when the gold answer names some of them: what looks like options may be
    parts of a figure. Options of their own field must be named, unless the record or the user names a grader.

    Raises:
        Rejected: when the grader cannot read the gold answer, with reason `bad_gold`.
    """
    options = record.options or record.written_options
    group = Group(record.answer, (), options=options, metadata=record.metadata, grader=record.grader or "")
    grader = choose_grader(group, record.answer)
    try:
        _ACCURACY.check_gold(group)
    except GoldError as error:
        if record.written_options and len(record.answer) > 1:
            return judge_gold(replace(record, written_options=()))
        raise Rejected(
            Reason.BAD_GOLD, f"answer = {shorten(record.answer)}, judged as {grader}: {error.message}"
        ) from None
    return Judgement(cast("Grader", grader), options if grader == "choice" or record.options else ())
