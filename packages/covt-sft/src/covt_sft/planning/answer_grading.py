"""Grades of answers to held-out rows, by the graders of covt-rewards. Importing this needs no torch."""

from collections.abc import Iterable

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
        SftError: naming the first such row.
    """
    for row in rows:
        try:
            GRADER.check_gold(_group(row))
        except GoldError as error:
            raise SftError(
                f"row {row.id}: {error}", "prepare the data again without such rows, or set eval.rows=0"
            ) from error


def _group(row: Row, *rollouts: Rollout) -> Group:
    return Group(
        answer=row.answer,
        rollouts=rollouts,
        id=row.id,
        grader=row.grader,
        options=tuple(row.options),
        metadata=row.meta,
    )
