"""Completions on disk and in the rewards package."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Rollout
from covt_rewards.latents import find_pad_runs
from covt_rollout.client.completions import Completion
from covt_rollout.rollout_errors import RolloutError

tokens = st.lists(st.integers(0, 10), max_size=30).map(tuple)
completions = st.builds(
    Completion,
    group_id=st.text(),
    sample_index=st.integers(0, 7),
    prompt_ids=tokens,
    token_ids=tokens,
    logprobs=st.lists(st.floats(-50, 0), max_size=30).map(tuple),
    text=st.text(),
    finish_reason=st.sampled_from(["stop", "length"]),
    latent_spans=st.lists(st.tuples(st.integers(0, 5), st.integers(6, 9)), max_size=3).map(tuple),
    latent_key=st.none() | st.text(min_size=1),
    seed=st.none() | st.integers(0, 2**31),
    mode=st.sampled_from(["keep", "zeros", "drop_latents"]),
    parent=st.none() | st.integers(0, 7),
    weight_version=st.integers(0, 1000),
)


@given(completions)
def test_a_completion_survives_json(completion: Completion) -> None:
    assert Completion.from_json(json.loads(json.dumps(completion.to_json()))) == completion


@given(completions)
def test_the_rewards_package_reads_a_completion_as_it_is(completion: Completion) -> None:
    rollout = Rollout.from_json(completion.to_json())
    for name in ("text", "token_ids", "latent_spans", "finish_reason", "mode", "seed", "weight_version", "parent"):
        assert getattr(rollout, name) == getattr(completion, name)


@pytest.mark.parametrize("change", [{"tokens": [1]}, {"text": None}])
def test_wrong_fields_are_named(change: dict[str, object]) -> None:
    record = _record()
    if "text" in change:
        del record["text"]
    else:
        record |= change
    with pytest.raises(RolloutError, match=r"tokens|text"):
        Completion.from_json(record)


def _record() -> dict[str, object]:
    return Completion(
        group_id="g", sample_index=0, prompt_ids=(), token_ids=(), logprobs=(), text="", finish_reason="stop",
        latent_spans=(),
    ).to_json()  # fmt: skip


@given(st.lists(st.sampled_from([1, 2, 9]), max_size=40))
def test_spans_are_exactly_the_runs_of_pads(token_ids: list[int]) -> None:
    spans = find_pad_runs(token_ids, 9)
    inside = [position for start, end in spans for position in range(start, end)]
    assert inside == [position for position, token in enumerate(token_ids) if token == 9]
    assert all(later[0] > earlier[1] for earlier, later in pairwise(spans))
