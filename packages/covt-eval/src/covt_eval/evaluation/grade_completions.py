"""Grading of one completion with the row's grader, and its text as people read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from covt_data.schema import Row
from covt_eval.evaluation.eval_rows import EvalRow
from covt_model.encoding.latent_tokens import END, PAD, START
from covt_rewards import Group, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.answers import final_answer
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient


def grade_completion(row: Row, completion: Completion, grader: AccuracyReward, text: str | None = None) -> EvalRow:
    """Grade a completion.

    Args:
        row: the row that was asked.
        completion: the answer.
        grader: the accuracy reward. Plans of `vsp` rows are graded under the `end_on_goal` rule as well.
        text: what the record shows; by default the completion's text.
    """
    group = Group(
        answer=row.answer,
        rollouts=(Rollout(completion.text),),
        id=row.id,
        grader=row.grader,
        options=tuple(row.options),
        metadata=row.meta,
    )
    end_on_goal = replace(grader, vsp_rule="end_on_goal").grade(group)[0].score if row.grader == "vsp" else None
    return EvalRow(
        id=row.id,
        gold=row.answer,
        answer=final_answer(completion.text, grader.lenient).text,
        correct=grader.grade(group)[0].score,
        text=completion.text if text is None else text,
        token_ids=completion.token_ids,
        latent_spans=completion.latent_spans,
        finish_reason=completion.finish_reason,
        meta=row.meta,
        category=row.category,
        sample=completion.sample_index,
        prompt_tokens=len(completion.prompt_ids),
        judges={} if end_on_goal is None else {"end_on_goal": end_on_goal},
    )


def decode_with_latents(token_ids: Sequence[int], client: RolloutClient) -> str:
    """Decode a completion and keep the names of the latent tokens in their places."""
    latent = client.latent
    names = {latent.start_id: START, latent.pad_id: PAD, latent.end_id: END}
    runs = groupby(token_ids, key=lambda token: names.get(token))
    return "".join(client.decode(list(run)) if name is None else name * len(list(run)) for name, run in runs)
