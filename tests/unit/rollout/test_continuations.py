"""Where a completion is cut and what is edited, for any completion with any spans."""

from __future__ import annotations

import numpy as np
import pytest
from fake_server import completed, run, serving
from hypothesis import given
from hypothesis import strategies as st

from covt_model.latent_config import LatentConfig
from covt_model.latents.latent_modes import CONTINUATION_MODES as MODES
from covt_rewards.latents import find_pad_runs, find_whole_spans
from covt_rollout.branches.branch_points import BranchPoint, choose_foreign_latents, find_branch_point
from covt_rollout.branches.continuations import continue_from
from covt_rollout.client.completions import Completion
from covt_rollout.client.rollout_client import RolloutClient
from covt_rollout.client.rollout_requests import PromptRequest, Sampling
from covt_rollout.rollout_errors import RolloutError, StaleWeightsError

START, PAD, END = 100, 101, 102
LATENT = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=3)
PAUSE = LatentConfig(start_id=START, pad_id=PAD, end_id=END, size=3, head="none")
SPAN = [START, PAD, PAD, PAD, END]


def completion(token_ids: list[int], **values) -> Completion:
    defaults = {
        "group_id": "a", "sample_index": 2, "prompt_ids": (1, 2), "text": "", "finish_reason": "stop",
        "logprobs": tuple(-0.01 * position for position in range(len(token_ids))),
        "latent_spans": find_pad_runs(token_ids, PAD),
    }  # fmt: skip
    return Completion(token_ids=tuple(token_ids), **(defaults | values))


def latents(rows: int, first: float = 0.0) -> np.ndarray:
    return np.arange(first, first + 2 * rows, dtype=np.float32).reshape(rows, 2)


pieces = st.lists(st.one_of(st.just(SPAN), st.lists(st.integers(3, 50), max_size=4)), max_size=8)
with_spans = pieces.filter(lambda found: SPAN in found).map(lambda found: [token for piece in found for token in piece])
which = st.sampled_from(["first", "last"])


def made(token_ids: list[int], mode, **settings) -> BranchPoint:
    own = latents(token_ids.count(PAD))
    point = find_branch_point(
        completion(token_ids), mode, LATENT, max_tokens=200, own=own, foreign=latents(2, 500), **settings
    )
    assert point is not None
    return point


@given(with_spans, which, st.sampled_from(MODES))
def test_the_cut_is_right_after_a_span_and_leaves_the_rest_of_the_budget(token_ids, which, mode) -> None:
    spans = find_whole_spans(token_ids, LATENT)
    end = spans[0 if which == "first" else -1][1] + 1
    point = made(token_ids, mode, which=which)
    assert point.budget == 200 - end
    assert point.pads == token_ids[:end].count(PAD)
    assert len(point.prefix) == len(point.logprobs)
    visible = [token for token in token_ids[:end] if token not in (START, PAD, END)]
    assert [token for token in point.prefix if token not in (START, PAD, END)] == visible


@given(with_spans, which, st.sampled_from(MODES), st.integers(0, 3))
def test_a_continuation_may_have_the_spans_that_its_parent_had_left(token_ids, which, mode, left) -> None:
    """Whatever the mode drops, so that all modes have the same budget."""
    spans = find_whole_spans(token_ids, LATENT)
    used = 1 if which == "first" else len(spans)
    assert made(token_ids, mode, which=which, max_spans=len(spans) + left).max_spans == len(spans) + left - used
    assert made(token_ids, mode, which=which).max_spans is None


@given(with_spans, which)
def test_dropping_latents_leaves_empty_markers_and_nothing_else_out(token_ids, which) -> None:
    kept, dropped = made(token_ids, "keep", which=which), made(token_ids, "drop_latents", which=which)
    assert dropped.prefix == tuple(token for token in kept.prefix if token != PAD)
    assert dropped.fed.latents is None
    assert dropped.fed.mode == "keep"
    assert "".join(map(chr, dropped.prefix)).count(chr(START) + chr(END)) == dropped.prefix.count(START)


@given(with_spans, which)
def test_dropping_spans_leaves_the_text(token_ids, which) -> None:
    kept, dropped = made(token_ids, "keep", which=which), made(token_ids, "drop_span", which=which)
    assert dropped.prefix == tuple(token for token in kept.prefix if token not in (START, PAD, END))


@given(with_spans, which)
def test_other_modes_leave_the_ids_and_change_what_is_fed(token_ids, which) -> None:
    kept = made(token_ids, "keep", which=which)
    assert np.array_equal(kept.fed.latents, latents(token_ids.count(PAD))[: kept.pads])
    for mode in ("zeros", "noise", "shuffle"):
        point = made(token_ids, mode, which=which, seed=9)
        assert point.prefix == kept.prefix
        assert point.logprobs == kept.logprobs
        if mode == "zeros":
            assert (point.fed.mode, point.fed.latents) == ("zeros", None)
        elif mode == "noise":
            assert (point.fed.mode, point.fed.seed) == ("noise", 9)
            assert np.array_equal(point.fed.latents, kept.fed.latents)
        else:
            assert point.fed.mode == "given"
            assert np.array_equal(point.fed.latents, np.resize(latents(2, 500), (point.pads, 2)))


@pytest.mark.parametrize(
    "token_ids",
    [[], [5, 6], [START, PAD, PAD, PAD], [START, PAD, PAD, END, 5], [PAD, PAD, PAD, END], [START, PAD, PAD, PAD, 7]],
)
def test_a_completion_without_a_whole_span_has_no_cut(token_ids) -> None:
    assert find_branch_point(completion(token_ids), "drop_latents", LATENT, max_tokens=20) is None


def test_missing_latents_and_unknown_modes_are_errors() -> None:
    with pytest.raises(RolloutError, match="needs 3 latents, there are 2"):
        find_branch_point(completion(SPAN), "noise", LATENT, max_tokens=20, own=latents(2))
    with pytest.raises(RolloutError, match="another sample's"):
        find_branch_point(completion(SPAN), "shuffle", LATENT, max_tokens=20)
    with pytest.raises(RolloutError, match="no latent mode 'blank'"):
        find_branch_point(completion(SPAN), "blank", LATENT, max_tokens=20)  # pyright: ignore[reportArgumentType]


def test_a_pause_checkpoint_is_continued_without_latents() -> None:
    point = find_branch_point(completion(SPAN), "keep", PAUSE, max_tokens=20)
    assert point is not None
    assert point.fed.latents is None
    with pytest.raises(RolloutError, match="without latents"):
        find_branch_point(completion(SPAN), "zeros", PAUSE, max_tokens=20)


def continued(parents, answer, sampling, *, prompts=None, **settings):
    bodies = []

    def reply(body):
        bodies.append(body)
        return answer(body)

    async def work():
        decode = lambda ids: " ".join(map(str, ids))  # noqa: E731
        async with serving(reply) as url, RolloutClient(url, latent=LATENT, decode=decode) as client:
            given = prompts or [PromptRequest((1, 2))] * len(parents)
            return await continue_from(client, given, parents, "drop_latents", sampling, **settings)

    return run(work()), bodies


def test_continuations_are_graded_like_completions_of_the_parents_prompt() -> None:
    parents = [completion([5, *SPAN, 7, 8]), completion([5, 6])]
    sampling = Sampling(max_tokens=12, n=2, seed=50)
    (first, second), bodies = continued(parents, lambda body: completed(body, [9, 9]), sampling)
    assert second == []
    assert [body["token_ids"] for body in bodies] == [[1, 2, 5, START, END]]
    assert bodies[0]["sampling_params"]["max_tokens"] == 12 - 6
    for index, one in enumerate(first):
        assert (one.sample_index, one.parent, one.mode) == (index, 2, "drop_latents")
        assert one.prompt_ids == (1, 2)
        assert one.token_ids == (5, START, END, 9, 9)
        assert one.logprobs == (0.0, -0.01, -0.05, -0.5, -0.5)
        assert one.text == "5 100 102 9 9"
        assert one.latent_spans == ()


def test_a_parent_that_ended_at_its_span_is_not_sent() -> None:
    parents = [completion([5, *SPAN], finish_reason="length")]
    ((one,),), bodies = continued(parents, lambda body: completed(body, [9]), Sampling(max_tokens=6))
    assert bodies == []
    assert (one.token_ids, one.finish_reason, one.parent) == ((5, START, END), "length", 2)


def test_the_prompt_must_be_the_parents() -> None:
    with pytest.raises(RolloutError, match="another prompt"):
        continued(
            [completion([*SPAN, 7])],
            lambda body: completed(body, [9]),
            Sampling(max_tokens=9),
            prompts=[PromptRequest((4, 4))],
        )


def test_a_continuation_by_newer_weights_is_an_error() -> None:
    with pytest.raises(StaleWeightsError, match="version 0, its continuation with 5"):
        continued([completion([*SPAN, 7])], lambda body: completed(body, [9], version="5"), Sampling(max_tokens=9))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12), st.integers(0, 5))
def test_foreign_latents_are_of_another_prompt(rows, seed) -> None:
    completions = [completion([*SPAN], group_id=group) for group, _ in rows]
    own = [latents(3, 10 * index) if has else None for index, (_, has) in enumerate(rows)]
    for index, (group, _) in enumerate(rows):
        found = choose_foreign_latents(completions, own, seed)[index]
        donors = [other for other, (name, has) in enumerate(rows) if has and name != group]
        if found is None:
            assert not donors
        else:
            assert any(found is own[other] for other in donors)


def test_a_completion_without_foreign_latents_is_left_out() -> None:
    async def work():
        async with (
            serving(lambda body: completed(body, [9])) as url,
            RolloutClient(url, latent=LATENT, decode=str) as client,
        ):
            parents, prompts = [completion([*SPAN, 7])] * 2, [PromptRequest((1, 2))] * 2
            foreign = [None, latents(3)]
            return await continue_from(client, prompts, parents, "shuffle", Sampling(max_tokens=9), foreign=foreign)

    assert [len(group) for group in run(work())] == [0, 1]


def test_a_sampled_picture_placeholder_is_not_given_back_to_the_server() -> None:
    async def work():
        async with (
            serving(lambda body: completed(body, [9])) as url,
            RolloutClient(url, latent=LATENT, decode=str, placeholder_ids=frozenset({55})) as client,
        ):
            parents = [completion([55, *SPAN, 7]), completion([*SPAN, 55])]
            prompts = [PromptRequest((1, 2))] * 2
            return await continue_from(client, prompts, parents, "drop_latents", Sampling(max_tokens=9))

    assert [len(group) for group in run(work())] == [0, 1]
