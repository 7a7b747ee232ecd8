"""Heuristics of `reasoning`, the overlong penalty, and the group normalization."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Group, RewardError, Rollout
from covt_rewards.normalize import normalize, normalize_then_sum, sum_then_normalize
from covt_rewards.rewards.length import LengthReward
from covt_rewards.rewards.reasoning import ReasoningReward

GOOD = (
    "The marker stands on B2. The first arrow points right, so it moves to C2. "
    "From there the arrow points down and leads to C3. Both moves are done. <answer>C3</answer>"
)


def parts(text: str, prompt: str = "") -> dict[str, float]:
    result = ReasoningReward().score_by_rules(text, prompt)
    assert 0.0 <= result.value <= 1.0
    return dict(result.parts)


def test_sound_reasoning_earns_everything() -> None:
    assert parts(GOOD) == {"ngrams": 1.0, "sentences": 1.0, "steps": 1.0, "order": 1.0, "language": 1.0}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("go to the next cell and look again " * 40 + "<answer>C3</answer>", "ngrams"),
        ("We move right now. " * 12 + "<answer>C3</answer>", "sentences"),
        ("<answer>C3</answer>", "steps"),
        ("The answer is C3. " + GOOD, "order"),
        ("<answer>C3</answer> because the marker moves right and then down to it, as seen.", "order"),
        ("Сначала идём вправо, потом вниз до конца. Затем снова вправо. <answer>C3</answer>", "language"),
        ("", "steps"),
    ],
)
def test_each_fault_lowers_its_part(text: str, part: str) -> None:
    assert parts(text, prompt="Where does the marker end?")[part] < 0.5


def test_mathematics_is_no_foreign_language() -> None:
    assert parts(r"所以面积等于 $\frac{1}{2} \times a \times b$，其中 $a$ 和 $b$ 是边长。\boxed{6}")["language"] == 1.0


@given(st.text(max_size=300))
def test_no_text_raises_and_values_stay_in_range(text: str) -> None:
    assert all(0.0 <= value <= 1.0 for value in parts(text).values())


def test_time_is_bounded_for_huge_texts() -> None:
    began = time.perf_counter()
    parts("word " * 1_000_000)
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(("tokens", "value"), [(0, 0.0), (60, 0.0), (80, -0.5), (100, -1.0), (500, -1.0)])
def test_the_overlong_penalty_is_linear_in_its_buffer(tokens: int, value: float) -> None:
    group = Group("", (Rollout("x" if tokens else "", tuple(range(tokens))),))
    assert LengthReward(max_tokens=100, buffer=40)(group)[0].value == pytest.approx(value)


def test_length_needs_token_ids_and_a_sensible_buffer() -> None:
    with pytest.raises(RewardError, match="token_ids"):
        LengthReward()(Group("", (Rollout("text"),)))
    with pytest.raises(RewardError, match="buffer"):
        LengthReward(max_tokens=10, buffer=11)


def test_advantages_of_known_numbers() -> None:
    assert normalize([1.0, 0.0, 0.0, 1.0], scale=False) == [0.5, -0.5, -0.5, 0.5]
    assert normalize([3.0, 1.0]) == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-5)  # deviations ±1, spread √2
    assert normalize([]) == []
    assert normalize([5.0]) == [0.0]
    assert normalize([2.0, 2.0]) == [0.0, 0.0]


def test_a_rare_reward_is_kept_by_normalizing_first() -> None:
    values = {"noisy": [10.0, -10.0, 10.0, -10.0], "rare": [0.1, 0.0, 0.0, 0.0]}
    weights = {"noisy": 1.0, "rare": 1.0}
    first = normalize_then_sum(values, weights)
    last = sum_then_normalize(values, weights)
    assert first[0] - first[2] > 1.0
    assert last[0] - last[2] < 0.02


lists = st.lists(st.floats(-10, 10), min_size=2, max_size=8)


@given(lists, st.floats(-100, 100))
def test_a_constant_added_to_the_group_cancels(values: list[float], constant: float) -> None:
    weights = {"a": 1.0, "b": 1.0}
    rewards = {"a": values, "b": [constant] * len(values)}
    for rule in (sum_then_normalize, normalize_then_sum):
        assert rule(rewards, weights, scale=False) == pytest.approx(normalize(values, scale=False), abs=1e-9)


def test_values_and_weights_must_fit() -> None:
    with pytest.raises(RewardError):
        sum_then_normalize({"a": [1.0]}, {"b": 1.0})
    with pytest.raises(RewardError):
        normalize_then_sum({"a": [1.0], "b": [1.0, 2.0]}, {"a": 1.0, "b": 1.0})
