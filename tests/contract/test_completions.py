"""Contract D: a completion as the rollout client records it is a rollout as the rewards read it."""

from dataclasses import fields

from covt_rewards import LatentFormat, Rollout
from covt_rewards.latents import check_spans, find_pad_runs
from covt_rollout.client.completions import Completion

COMPLETION = Completion(
    group_id="row-7",
    sample_index=3,
    prompt_ids=(1, 2),
    token_ids=(5, 100, 101, 101, 102, 6),
    logprobs=(-0.5, 0.0, 0.0, 0.0, 0.0, -0.25),
    text=r"\boxed{4}",
    finish_reason="stop",
    latent_spans=((2, 4),),
    latent_key="k",
    seed=11,
    mode="drop_latents",
    parent=2,
    weight_version=9,
)


def test_a_completion_is_read_with_every_field() -> None:
    rollout = Rollout.from_json(COMPLETION.to_json())
    for field in fields(Completion):
        assert getattr(rollout, field.name) == getattr(COMPLETION, field.name), field.name
    assert {field.name for field in fields(Rollout)} == {field.name for field in fields(Completion)} | {
        "ablated",
        "control",
    }


def test_a_rollout_goes_back_to_json_that_completions_read() -> None:
    record = Rollout.from_json(COMPLETION.to_json()).to_json()
    assert Completion.from_json({name: record[name] for name in COMPLETION.to_json()}) == COMPLETION


def test_both_sides_find_the_same_spans() -> None:
    report = check_spans(COMPLETION.token_ids, LatentFormat(start_id=100, pad_id=101, end_id=102, size=2))
    assert report.spans == COMPLETION.latent_spans == find_pad_runs(COMPLETION.token_ids, 101)
