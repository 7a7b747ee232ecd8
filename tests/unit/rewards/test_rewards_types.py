"""Records: JSON both ways, and errors that name the field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Group, RewardError, RewardResult, Rollout

texts = st.text(max_size=20)
ids = st.lists(st.integers(0, 300_000), max_size=6).map(tuple)
spans = st.lists(st.tuples(st.integers(0, 5), st.integers(5, 9)), max_size=2).map(tuple)
leaves = st.builds(Rollout, text=texts, token_ids=ids, latent_spans=spans, mode=st.sampled_from(["keep", "zeros"]))
rollouts = st.builds(
    Rollout,
    text=texts,
    token_ids=ids,
    latent_spans=spans,
    finish_reason=st.sampled_from(["", "stop", "length"]),
    ablated=st.lists(leaves, max_size=2).map(tuple),
    control=st.lists(leaves, max_size=2).map(tuple),
    logprobs=st.lists(st.floats(-30, 0), max_size=3).map(tuple),
    seed=st.none() | st.integers(),
    parent=st.none() | st.integers() | st.text(min_size=1, max_size=4),
    weight_version=st.integers(0, 10**6),
)


@given(rollouts)
def test_a_rollout_survives_json(rollout: Rollout) -> None:
    assert Rollout.from_json(json.loads(json.dumps(rollout.to_json()))) == rollout


@given(st.lists(rollouts, min_size=1, max_size=3), st.lists(texts, max_size=3))
def test_a_group_survives_json(members: list[Rollout], options: list[str]) -> None:
    group = Group("4", tuple(members), "2+2?", "row-1", "math", tuple(options), {"rows": ["SG"]})
    assert Group.from_json(json.loads(json.dumps(group.to_json()))) == group


def test_a_result_survives_json() -> None:
    result = RewardResult(0.5, {"nu": 1.0}, "why")
    assert RewardResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_completion_record_of_the_trainer_is_read_as_it_is() -> None:
    record = {"group_id": "g", "sample_index": 3, "prompt_ids": [1, 2], "token_ids": [5, 6], "logprobs": [-0.1, 0.0]}
    record |= {
        "text": "x",
        "finish_reason": "stop",
        "latent_spans": [[0, 1]],
        "latent_key": "k",
        "seed": 1,
        "mode": "keep",
    }
    rollout = Rollout.from_json({**record, "mode": "keep", "parent": None, "weight_version": 7, "unknown": object})
    assert (rollout.token_ids, rollout.latent_spans, rollout.weight_version) == ((5, 6), ((0, 1),), 7)


def test_plain_texts_numbers_and_json_metadata_are_accepted() -> None:
    group = Group.from_json({"id": 3, "answer": 4, "completions": ["four"], "metadata": '{"rows": ["SG"]}'})
    assert (group.id, group.answer, group.metadata["rows"]) == ("3", "4", ["SG"])


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ([], "row is list"),
        ({"completions": ["x"]}, "row.answer is missing"),
        ({"answer": "1"}, "row.completions is missing"),
        ({"answer": "1", "completions": "x"}, "row.completions is str"),
        ({"answer": "1", "completions": [{"text": 1}]}, r"row.completions\[0\].text is int"),
        ({"answer": "1", "completions": [{"text": "", "token_ids": [1, "2"]}]}, r"token_ids\[1\] is str"),
        ({"answer": "1", "completions": [{"text": "", "token_ids": [None]}]}, r"token_ids\[0\] is missing"),
        ({"answer": "1", "completions": [{"text": "", "latent_spans": [[2, 1]]}]}, r"latent_spans\[0\] is \[2, 1\]"),
        ({"answer": "1", "completions": [{"text": "", "ablated": [3]}]}, r"ablated\[0\] is int"),
        ({"answer": "1", "completions": ["x"], "metadata": "{"}, "row.metadata is not JSON"),
        ({"answer": "1", "completions": ["x"], "options": [None]}, r"row.options\[0\] is missing"),
    ],
)
def test_a_malformed_row_names_the_field(row: object, named: str) -> None:
    with pytest.raises(RewardError, match=named) as error:
        Group.from_json(row)
    assert error.value.remedy
