"""`necessity` against the formula of its definition, and what each form does at its edges."""

import random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Group, LatentFormat, RewardError, Rollout, parse_rewards
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.rewards.necessity import NecessityReward, mean_nu

RIGHT, WRONG = "<answer>A1</answer>", "<answer>B2</answer>"
SPAN = ((1, 3),)


def text(right: bool) -> Rollout:
    return Rollout(RIGHT if right else WRONG)


def rollout(right: bool, ablated: list[bool], control: list[bool] | None = None, used: bool = True) -> Rollout:
    return Rollout(
        RIGHT if right else WRONG,
        latent_spans=SPAN if used else (),
        ablated=tuple(text(each) for each in ablated),
        control=tuple(text(each) for each in control or []),
    )


def group(*rollouts: Rollout) -> Group:
    return Group("A1", rollouts, grader="text")


@pytest.mark.parametrize(
    ("right", "ablated", "value", "nu"),
    [
        (True, [False], 1.0, 1.0),
        (False, [True], -1.0, -1.0),
        (True, [True], 0.0, 0.0),
        (False, [False], 0.0, 0.0),
        (True, [True, False], 0.5, 0.5),
        (False, [True, False, False, False], -0.25, -0.25),
    ],
)
def test_gain_and_harm(right: bool, ablated: list[bool], value: float, nu: float) -> None:
    (result,) = NecessityReward()(group(rollout(right, ablated)))
    assert (result.value, result.parts["nu"]) == (value, nu)


def test_the_redundant_case_costs_what_is_asked() -> None:
    both = group(rollout(True, [True, True]), rollout(True, [True, False]), rollout(False, [False]))
    assert [r.value for r in NecessityReward(w_redundant=0.5)(both)] == [-0.5, 0.5, 0.0]


def test_control_continuations_replace_the_rollouts_own_accuracy() -> None:
    """The rollout itself was lucky; with latents kept its continuations are right half the time."""
    (result,) = NecessityReward()(group(rollout(True, [True, False], control=[True, False])))
    assert (result.value, result.parts["nu"], result.parts["accuracy"]) == (0.0, 0.0, 0.5)


def test_nothing_is_earned_without_a_span_and_nu_is_logged_all_the_same() -> None:
    (result,) = NecessityReward()(group(rollout(True, [False], used=False)))
    assert (result.value, result.parts["nu"], result.parts["used"]) == (0.0, 1.0, 0.0)


def test_a_span_malformed_by_ids_does_not_count_as_used() -> None:
    latent = LatentFormat(10, 11, 12, 2)
    good = Rollout(RIGHT, (1, 10, 11, 11, 12), SPAN, ablated=(text(False),))
    bad = Rollout(RIGHT, (1, 10, 11, 12), SPAN, ablated=(text(False),))
    assert [r.value for r in NecessityReward(latent=latent)(group(good, bad))] == [1.0, 0.0]


def test_missing_continuations_score_zero_and_say_so() -> None:
    (result,) = NecessityReward()(group(rollout(True, [])))
    assert result.value == 0.0
    assert result.reason == "no ablated continuations"
    assert "nu" not in result.parts


def test_nu_is_logged_at_weight_zero() -> None:
    results = NecessityReward(w_gain=0, w_harm=0)(group(rollout(True, [False]), rollout(True, [True])))
    assert [r.value for r in results] == [0.0, 0.0]
    assert mean_nu(results) == 0.5
    assert mean_nu([]) is None


def test_the_published_rule() -> None:
    """+1 right only with the latents, −0.5 right with and without, −0.5 right only without, 0 never right."""
    cases = [(True, [False]), (True, [True]), (False, [True]), (False, [False])]
    results = NecessityReward(preset="silent")(group(*(rollout(*case) for case in cases)))
    assert [r.value for r in results] == [1.0, -0.5, -0.5, 0.0]
    results = NecessityReward(preset="silent", w_redundant=0.0)(group(rollout(True, [True])))
    assert [r.value for r in results] == [0.0]


@pytest.mark.parametrize(("ablated", "controls"), [(1, 0), (1, 1), (4, 4)])
@pytest.mark.parametrize("accuracy", [0.2, 0.5])
def test_latents_that_change_nothing_are_paid_nothing(ablated: int, controls: int, accuracy: float) -> None:
    """The mean reward of equal accuracies is 0 within four standard errors; with w_harm 0.5 it is far above."""
    draw, groups = random.Random(0), 300

    def answers(number: int) -> list[bool]:
        return [draw.random() < accuracy for _ in range(number)]

    cases = [[(*answers(1), answers(ablated), answers(controls)) for _ in range(8)] for _ in range(groups)]

    def rewards(reward: NecessityReward) -> list[float]:
        return [r.value for case in cases for r in reward(group(*(rollout(*each) for each in case)))]

    fair, lenient = rewards(NecessityReward()), rewards(NecessityReward(w_harm=0.5))
    error = stdev(fair) / len(fair) ** 0.5
    assert abs(fmean(fair)) < 4 * error < 0.08
    assert fmean(lenient) > 0.04


def test_group_contrast() -> None:
    """Only rollouts that used latents and were right are paid the difference."""
    mixed = [(True, True), (True, True), (False, True), (True, False), (False, False)]
    results = NecessityReward(preset="contrast")(group(*(rollout(right, [], used=used) for right, used in mixed)))
    assert [r.value for r in results] == pytest.approx([2 / 3 - 1 / 2] * 2 + [0.0] * 3)


def test_the_contrast_has_no_weights() -> None:
    with pytest.raises(RewardError, match=r"necessity\.w_harm is 0\.5, and preset contrast has no weights \(leave out"):
        parse_rewards("necessity", {"necessity": {"preset": "contrast", "w_harm": 0.5}})


def test_group_contrast_is_never_negative() -> None:
    results = NecessityReward(preset="contrast")(group(rollout(False, []), rollout(True, [], used=False)))
    assert [r.value for r in results] == [0.0, 0.0]
    assert results[0].parts["delta"] == -1.0


@pytest.mark.parametrize("used", [True, False])
def test_group_contrast_is_zero_when_one_side_is_empty(used: bool) -> None:
    results = NecessityReward(preset="contrast")(group(rollout(True, [], used=used), rollout(True, [], used=used)))
    assert [r.value for r in results] == [0.0, 0.0]
    assert "no rollout" in results[0].reason


bools = st.booleans()
cases = st.lists(
    st.tuples(bools, st.lists(bools, max_size=3), st.lists(bools, max_size=3), bools), min_size=1, max_size=8
)
weights = st.floats(0, 2)


@given(cases, weights, weights, weights)
def test_it_is_the_written_formula(
    group_cases: list[tuple[bool, list[bool], list[bool], bool]], gain: float, harm: float, redundant: float
) -> None:
    reward = NecessityReward(w_gain=gain, w_harm=harm, w_redundant=redundant)
    results = reward(group(*(rollout(*case) for case in group_cases)))
    for (right, ablated, control, used), result in zip(group_cases, results, strict=True):
        if not ablated:
            assert result.value == 0.0
            continue
        a = fmean(control) if control else float(right)
        without = fmean(ablated)
        nu = a - without
        expected = used * (gain * max(nu, 0) - harm * max(-nu, 0) - redundant * (a == 1 and without == 1))
        assert result.value == pytest.approx(expected)
        assert result.parts["nu"] == pytest.approx(nu)


def test_the_run_s_accuracy_settings_say_what_right_is() -> None:
    over_goal = Rollout(r"\boxed{R,R}", latent_spans=SPAN, ablated=(Rollout(r"\boxed{L}"),))
    rows = Group("R", (over_goal,), metadata={"rows": ["SGF"]})
    (necessity,) = parse_rewards("necessity")
    assert necessity.reward(rows)[0].value == 1.0
    _, necessity = parse_rewards("accuracy,necessity", {"accuracy": {"vsp_rule": "end_on_goal"}})
    assert necessity.reward(rows)[0].value == 0.0


def test_all_continuations_are_graded_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    grade = AccuracyReward.grade

    def counting(self: AccuracyReward, of: Group, rollouts: list[Rollout] | None = None) -> object:
        calls.append(len(rollouts or of.rollouts))
        return grade(self, of, rollouts)

    monkeypatch.setattr(AccuracyReward, "grade", counting)
    NecessityReward()(group(rollout(True, [True, False], [True]), rollout(False, [True])))
    assert calls == [6]
