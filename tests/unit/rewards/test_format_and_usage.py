"""`format` by text and by token ids; `usage`; the spans they share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Group, LatentFormat, RewardError, Rollout
from covt_rewards.latents import check_spans
from covt_rewards.rewards.format import FormatReward
from covt_rewards.rewards.usage import UsageReward

START, PAD, END = 100, 101, 102
LATENT = LatentFormat(START, PAD, END, 3)
SPAN = (START, PAD, PAD, PAD, END)


def judge(text: str, ids: tuple[int, ...] = (), **settings: object) -> tuple[float, str]:
    reward = FormatReward(**settings)  # type: ignore[arg-type]
    (result,) = reward(Group("", (Rollout(text, ids),)))
    return result.value, result.reason


ONE_ANSWER = [r"so \boxed{4}", "<answer>4</answer>", r"<answer>\boxed{4}</answer>", r"\boxed{\boxed{4}}"]


@pytest.mark.parametrize("text", ONE_ANSWER)
def test_one_answer_is_well_formed(text: str) -> None:
    assert judge(text) == (1.0, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4", "no final answer"),
        (r"\boxed{4} \boxed{4}", "2 final answers"),
        (r"<answer>4</answer>\boxed{4}", "2 final answers"),
        (r"\boxed{4} \boxed{", "without its closing brace"),
        ("<answer>4</answer><answer>", "without its partner"),
        (r"\boxed{ }", "empty"),
    ],
)
def test_what_is_malformed_scores_zero_and_says_why(text: str, reason: str) -> None:
    value, why = judge(text)
    assert value == 0.0
    assert reason in why


def test_the_marker_can_be_asked_for() -> None:
    assert judge(r"\boxed{4}", answer="tag")[0] == 0.0
    assert judge("<answer>4</answer>", answer="tag")[0] == 1.0


def test_thinking_can_be_asked_for() -> None:
    assert judge(r"<think>a</think>\boxed{4}", think=True)[0] == 1.0
    assert judge(r"\boxed{4}", think=True)[0] == 0.0
    assert judge(r"<think>\boxed{4}</think>", think=True)[0] == 0.0


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ((1, *SPAN, 2), ""),
        ((*SPAN, 5, *SPAN), ""),
        ((START, PAD, PAD, END), "2 pads, not 3"),
        ((START, PAD, PAD, PAD, PAD, END), "4 pads, not 3"),
        ((START, PAD, 7, PAD, END), "broken by id 7"),
        ((START, PAD, PAD, PAD), "never closed"),
        ((START,), "never closed"),
        ((PAD, 1), "pad at token 0 outside"),
        ((*SPAN, END), "end at token 5 outside"),
        ((START, *SPAN), "broken by id 100"),
        ((1, 2), ""),
    ],
)
def test_latent_spans_are_judged_by_token_ids(ids: tuple[int, ...], reason: str) -> None:
    value, why = judge(r"\boxed{4}", ids, latent=LATENT)
    assert value == float(not reason)
    assert reason in why


def test_latents_can_be_required() -> None:
    assert judge(r"\boxed{4}", (1, 2), latent=LATENT, requires_latent=True) == (0.0, "no latent span")
    assert judge(r"\boxed{4}", SPAN, latent=LATENT, requires_latent=True) == (1.0, "")


@given(st.lists(st.lists(st.integers(0, 99), max_size=3) | st.just(list(SPAN)), max_size=6))
def test_spans_are_found_where_they_were_put(pieces: list[list[int]]) -> None:
    ids: list[int] = []
    expected: list[tuple[int, int]] = []
    for piece in pieces:
        if piece == list(SPAN):
            expected.append((len(ids) + 1, len(ids) + 4))
        ids += piece
    report = check_spans(tuple(ids), LATENT)
    assert (report.problem, list(report.spans)) == ("", expected)


@given(st.lists(st.sampled_from([START, PAD, END, 1]), max_size=12))
def test_acceptance_equals_the_grammar(ids: list[int]) -> None:
    """Oracle: deleting whole spans leaves no marker behind."""
    text = "".join({START: "S", PAD: "P", END: "E", 1: "x"}[token] for token in ids)
    accepted = not set(text.replace("SPPPE", "")) & set("SPE")
    # Deleting can bring markers together that were apart; a second look at what remains would be wrong, so only once.
    assert (check_spans(tuple(ids), LATENT).problem == "") == accepted


def test_usage_counts_spans_within_bounds() -> None:
    group = Group("", tuple(Rollout("", ids) for ids in [(1,), SPAN, SPAN * 2, SPAN * 3, (START,)]))
    results = UsageReward(at_least=1, at_most=2, cost=0.25, latent=LATENT)(group)
    assert [result.value for result in results] == [0.0, 1.0, 0.75, 0.0, 0.0]
    assert results[2].parts == {"spans": 2.0, "latent_tokens": 6.0, "used": 1.0}
    assert "never closed" in results[4].reason


def test_usage_without_a_vocabulary_counts_recorded_spans() -> None:
    (result,) = UsageReward()(Group("", (Rollout("", latent_spans=((1, 4), (5, 5))),)))
    assert (result.value, result.parts["spans"]) == (1.0, 1.0)


def test_usage_refuses_crossed_bounds() -> None:
    with pytest.raises(RewardError):
        UsageReward(at_least=3, at_most=2)
