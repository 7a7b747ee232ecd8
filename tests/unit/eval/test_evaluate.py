"""Judging answers, dropping latents from answers with several spans, writing rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from fake_server import completed, run, serving

from covt_data.schema import Row
from covt_eval.eval_errors import EvalError
from covt_eval.evaluation.eval_rows import write_rows
from covt_eval.evaluation.evaluate import evaluate
from covt_eval.evaluation.grade_completions import decode_with_latents, grade_completion
from covt_model.latent_config import LatentConfig
from covt_rewards.accuracy import AccuracyReward
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.vllm_plugin.protocol import decode_latents

START, PAD, END = 100, 101, 102
LATENT = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=2)
SPAN = [START, PAD, PAD, END]


def row(number: int = 0, **values) -> Row:
    defaults = {
        "id": f"r{number}",
        "source": "trace",
        "split": "test",
        "question": "Which?",
        "answer": "B3",
        "grader": "text",
    }
    return Row(**(defaults | values))


def answered(text: str) -> Completion:
    return Completion(
        group_id="r0", sample_index=0, prompt_ids=(), token_ids=(4,), logprobs=(0.0,), text=text, finish_reason="stop",
        latent_spans=(),
    )  # fmt: skip


class Numbers:
    """Renders row N as the prompt [N]."""

    def encode_prompt(self, row: Row):
        return SimpleNamespace(ids=np.array([int(row.id[1:])]))


@pytest.mark.parametrize(
    ("values", "text", "answer", "correct"),
    [
        ({}, r"so \boxed{B3}", "B3", 1),
        ({}, r"so \boxed{B4}", "B4", 0),
        ({}, "", "", 0),
        ({"grader": "vsp", "answer": "R,D", "metadata": '{"rows": ["SF", "FG"]}'}, r"\boxed{D,R}", "D,R", 1),
        ({"grader": "vsp", "answer": "R,D", "metadata": '{"rows": ["SF", "HG"]}'}, r"\boxed{D,R}", "D,R", 0),
    ],
)
def test_answers_are_judged_by_the_rows_grader(values, text, answer, correct) -> None:
    result = grade_completion(row(**values), answered(text), AccuracyReward())
    assert (result.answer, result.correct, result.text) == (answer, correct, text)
    assert result.meta == row(**values).meta


def test_rows_are_written_one_a_line_and_whole(tmp_path) -> None:
    path = tmp_path / "eval" / "rl.keep.jsonl"
    write_rows(
        [grade_completion(row(n, metadata='{"hops": 3}'), answered(r"\boxed{B3}"), AccuracyReward()) for n in range(3)],
        path,
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["r0", "r1", "r2"]
    assert set(lines[0]) == {
        "id", "gold", "answer", "correct", "text", "token_ids", "latent_spans", "finish_reason", "meta",
        "category", "sample", "prompt_tokens", "seconds", "judges",
    }  # fmt: skip
    assert lines[0]["correct"] == 1
    assert isinstance(lines[0]["correct"], int)
    assert lines[0]["meta"] == {"hops": 3}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


class Model:
    """Answers a prompt with two spans, text between them and an end; continues what it is given likewise."""

    def __init__(self) -> None:
        self.bodies = []

    def __call__(self, body):
        self.bodies.append(body)
        number, *begun = body["token_ids"]
        whole = [10 + number, *SPAN, 20, *SPAN, 30]
        if begun == [START]:
            return completed(body, [PAD, PAD, END, 20, *SPAN, 30])
        if not begun:
            return completed(body, whole)
        # After the first dropped span comes the text and a second span; after the second only the end.
        rest = [31] if 20 in begun else [20, *SPAN, 30]
        return completed(body, rest[: body["sampling_params"]["max_tokens"]])


def evaluated(modes, rows=3, max_tokens=40, latent=LATENT, **settings):
    model = Model()

    async def work():
        decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
        async with serving(model) as url, RolloutClient(url, latent=latent, decode=decode) as client:

            async def taken(completions):
                return [np.full((4, 2), float(one.prompt_ids[0]), np.float32) for one in completions]

            client.take_latents = taken  # pyright: ignore[reportAttributeAccessIssue]
            return await evaluate(
                client, Numbers(), [row(n) for n in range(rows)], modes, max_tokens=max_tokens, **settings
            )

    return run(work()), model.bodies


def test_samples_of_a_row_follow_each_other_with_seeds_of_their_own() -> None:
    results, bodies = evaluated(["keep", "zeros", "drop_latents"], rows=2, samples=3, temperature=0.5, seed=10)
    for mode in ("keep", "zeros", "drop_latents"):
        places = [(one.id, one.sample) for one in results[mode]]
        assert places == [(f"r{number}", sample) for number in range(2) for sample in range(3)]
    for kind in ("keep", "zeros"):
        asked = [
            b for b in bodies if b["sampling_params"]["extra_args"]["latent_mode"] == kind and len(b["token_ids"]) == 1
        ]
        assert sorted(b["sampling_params"]["seed"] for b in asked) == [10, 11, 12, 13, 14, 15]
    assert all(one.seconds is not None and one.seconds >= 0 for one in results["keep"])
    assert all(one.seconds is None for one in results["drop_latents"])
    assert {len(body["token_ids"]) for body in bodies} > {1}


def test_a_row_is_not_given_what_another_of_its_samples_thought() -> None:
    _, bodies = evaluated(["shuffle"], rows=4, samples=2, temperature=1.0)
    given = [body for body in bodies if body["sampling_params"]["extra_args"]["latent_mode"] == "given"]
    pairs = [(b["token_ids"][0], decode_latents(b["sampling_params"]["extra_args"])[0, 0]) for b in given]
    assert len(pairs) == 8 and all(taker != giver for taker, giver in pairs)


def test_several_greedy_samples_are_refused() -> None:
    with pytest.raises(EvalError, match="all the same"):
        evaluated(["keep"], samples=2)


def test_plans_are_judged_by_both_rules() -> None:
    values = {"grader": "vsp", "answer": "R,D", "metadata": '{"rows": ["SF", "FG"]}'}
    result = grade_completion(row(**values), answered(r"\boxed{R,D,U}"), AccuracyReward())
    assert (result.correct, result.judges) == (1, {"end_on_goal": 0})
    assert grade_completion(row(), answered(r"\boxed{B3}"), AccuracyReward()).judges == {}


def test_every_span_is_dropped_also_those_begun_later() -> None:
    results, bodies = evaluated(["keep", "drop_latents"])
    assert [one.token_ids for one in results["keep"]] == [(10 + n, *SPAN, 20, *SPAN, 30) for n in range(3)]
    assert [one.token_ids for one in results["drop_latents"]] == [
        (10 + n, START, END, 20, START, END, 31) for n in range(3)
    ]
    assert all(body["sampling_params"]["extra_args"] == {"latent_mode": "keep"} for body in bodies)


def test_dropped_latents_still_cost_their_share_of_the_budget() -> None:
    results, bodies = evaluated(["drop_latents"], rows=1, max_tokens=15)
    budgets = [body["sampling_params"]["max_tokens"] for body in bodies]
    # 15, less the 5 tokens up to the first cut, less the 5 up to the second.
    assert budgets == [15, 10, 5]
    assert results["drop_latents"][0].token_ids[-1] == 31


def test_a_forced_start_begins_every_answer_and_costs_a_token() -> None:
    results, bodies = evaluated(["keep", "zeros", "drop_latents"], force_start=True)
    begun = (*SPAN, 20, *SPAN, 30)
    assert [one.token_ids for one in results["keep"]] == [one.token_ids for one in results["zeros"]] == [begun] * 3
    assert results["keep"][0].latent_spans == ((1, 3), (6, 8))
    assert [one.prompt_tokens for one in results["keep"]] == [1] * 3
    assert [one.token_ids for one in results["drop_latents"]] == [(START, END, 20, START, END, 31)] * 3
    forced = [body for body in bodies if body["token_ids"][1:] == [START]]
    assert len(forced) == 6 and {body["sampling_params"]["max_tokens"] for body in forced} == {39}


def test_a_forced_start_needs_room_for_an_answer() -> None:
    with pytest.raises(EvalError, match="4 tokens leave no room") as caught:
        evaluated(["keep"], force_start=True, max_tokens=4)
    assert "5 or more" in caught.value.remedy
    evaluated(["keep"], force_start=True, max_tokens=5)


def test_dropped_spans_leave_the_text_only() -> None:
    results, _ = evaluated(["drop_span"], rows=1)
    assert results["drop_span"][0].token_ids[:2] == (10, 20)
    assert START not in results["drop_span"][0].token_ids


def test_shuffled_rows_get_another_rows_latents_and_every_row_gives_once() -> None:
    results, bodies = evaluated(["shuffle"], rows=5)
    given = [body for body in bodies if body["sampling_params"]["extra_args"]["latent_mode"] == "given"]
    donors = {body["token_ids"][0]: decode_latents(body["sampling_params"]["extra_args"])[0, 0] for body in given}
    assert len(results["shuffle"]) == 5
    assert sorted(donors.values()) == [0, 1, 2, 3, 4]
    assert all(taker != giver for taker, giver in donors.items())
    assert all(body["cache_salt"] for body in given)


def test_noise_differs_from_row_to_row_and_repeats_with_the_seed() -> None:
    seeds = [
        [
            body["sampling_params"]["extra_args"].get("latent_seed", 0)
            for body in sorted(bodies, key=lambda b: b["token_ids"])
        ]
        for bodies in (evaluated(["noise"], seed=seed)[1] for seed in (1, 1, 2))
    ]
    assert seeds[0] == seeds[1] == [1, 2, 3]
    assert seeds[0] != seeds[2]


def test_progress_is_told_for_every_mode() -> None:
    told = []
    evaluated(["keep", "zeros", "drop_latents"], on_progress=lambda *what: told.append(what))
    for mode in ("keep", "zeros", "drop_latents"):
        assert (mode, 3, 3) in told


@pytest.mark.parametrize(("modes", "rows", "match"), [(["keep"], 0, "no rows"), (["blank"], 1, "no evaluation mode")])
def test_senseless_evaluations_are_refused(modes, rows, match) -> None:
    with pytest.raises(EvalError, match=match):
        evaluated(modes, rows=rows)


def test_a_pause_checkpoint_has_no_latents_to_replace() -> None:
    pause = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=2, head="none")
    with pytest.raises(EvalError, match="has none"):
        evaluated(["zeros"], latent=pause)
    results, _ = evaluated(["keep", "none", "drop_latents"], latent=pause)
    assert set(results) == {"keep", "none", "drop_latents"}


def test_the_written_text_has_the_latent_tokens_in_their_places():
    latent = LatentConfig(start_id=100, pad_id=101, end_id=102, size=2)
    client = RolloutClient(
        "http://127.0.0.1:1", latent=latent, decode=lambda ids: "".join(chr(token) for token in ids if token < 100)
    )
    text = decode_with_latents([72, 100, 101, 101, 102, 73, 200], client)
    assert text == "H<|latent_start|><|latent_pad|><|latent_pad|><|latent_end|>I"
