"""Grades of answers to held-out rows, by the graders of covt-rewards. Importing this needs no torch."""

from collections.abc import Iterable

from covt_data.records.gold_answers import describe_bad_golds
from covt_data.schema import Row
from covt_rewards import GoldError, Group, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_sft.sft_errors import SftError

GRADER = AccuracyReward()
"""The grader of `covt eval` with its defaults, so that both give an answer the same score."""


def grade_answer(row: Row, text: str) -> float:
    """Score of a completion in 0–1, by the grader that the row's task asks for."""
    return GRADER.grade(_group(row, Rollout(text)))[0].score


def check_golds(rows: Iterable[Row]) -> None:
    """Refuse rows whose gold answer the grader can't read.

    Raises:
        SftError: with the number of such rows, and the first ten.
    """
    problems: list[tuple[str, str]] = []
    for row in rows:
        try:
            GRADER.check_gold(_group(row))
        except GoldError as error:
            problems.append((f"row {row.id}", error.message))
    if problems:
        raise SftError(
            describe_bad_golds(problems), "prepare the data again, which leaves such rows out, or set eval.rows=0"
        )


def _group(row: Row, *rollouts: Rollout) -> Group:
    return Group(
        answer=row.answer,
        rollouts=rollouts,
        id=row.id,
        grader=row.grader,
        options=tuple(row.options),
        metadata=row.meta,
    )
