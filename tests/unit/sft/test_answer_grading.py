"""Grading answers while training: the scores are those of `covt eval`."""

import json

import pytest

from covt_data.schema import Row
from covt_eval.evaluation.grade_completions import grade_completion
from covt_rewards.accuracy import AccuracyReward
from covt_rollout.client.completions import Completion
from covt_sft.planning.answer_grading import check_golds, grade_answer
from covt_sft.sft_errors import SftError


def row(answer: str, grader: str = "text", options: tuple[str, ...] = (), **meta: object) -> Row:
    return Row(
        id="r",
        source="s",
        split="t",
        question="q",
        answer=answer,
        grader=grader,
        options=list(options),
        metadata=json.dumps(meta),
    )


def evaluated(of: Row, text: str) -> float:
    """The score that `covt eval` gives."""
    completion = Completion(
        group_id="r",
        sample_index=0,
        prompt_ids=(),
        token_ids=(),
        logprobs=(),
        text=text,
        finish_reason="stop",
        latent_spans=(),
    )
    return grade_completion(of, completion, AccuracyReward()).correct


MAZE = row("R,D", "vsp", rows=["SF", "FG"])
CHOICE = row("B", "choice", ("left", "right"))
FRACTION = row("1/2", "math")
CASES = [
    (row("B3"), "\\boxed{B3}", 1),
    (row("B3"), "so \\boxed{A1}, no: \\boxed{ B3 }.", 1),
    (row("B3"), "\\boxed{B2}", 0),
    (row("B3"), "the way ends somewhere\nnear B3", 0),
    (row("B3"), "", 0),
    (MAZE, "\\boxed{D,R}", 1),
    (MAZE, "\\boxed{D}", 0),
    (MAZE, "\\boxed{}", 0),
    (FRACTION, "\\boxed{\\frac{1}{2}}", 1),
    (FRACTION, "\\boxed{\\frac{1}{3}}", 0),
    (CHOICE, "\\boxed{(B)}", 1),
    (CHOICE, "<answer>B</answer>", 1),
    (CHOICE, "<answer>A</answer>", 0),
]


@pytest.mark.parametrize(("of", "text", "score"), CASES)
def test_an_answer_has_the_score_that_the_evaluation_gives_it(of: Row, text: str, score: int):
    assert grade_answer(of, text) == evaluated(of, text) == score


def test_gold_answers_that_no_grader_can_read_are_refused_before_training():
    check_golds([MAZE, CHOICE, FRACTION])
    with pytest.raises(SftError, match=r"12 gold answers cannot be read: row r: .*; and 2 more") as caught:
        check_golds([row("F", "vsp"), MAZE] * 12)
    assert "eval.rows=0" in caught.value.remedy
