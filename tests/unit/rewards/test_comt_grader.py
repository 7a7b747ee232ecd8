"""The grader `comt` gives the verdicts of ILVR's public evaluation, whatever a person would say."""

import pytest

from covt_rewards import GoldError, Group, Rollout, grade
from covt_rewards.accuracy.accuracy_reward import AccuracyReward
from covt_rewards.accuracy.comt import normalize_answer, read_answer


@pytest.mark.parametrize(
    ("completion", "gold", "right"),
    [
        ("The final answer is: 70°", "70°", True),
        ("The final answer is 70°.", "70°", True),
        ("Final Answer: **70°**", "70°", True),
        ("\\boxed{70°}", "70°", True),
        ("First \\boxed{80°}, no: \\boxed{70°}", "70°", True),
        ("\\boxed{70°} The final answer is: 80°", "70°", True),
        ("The final answer is: 80°\nThe final answer is: 70°", "70°", True),
        ("so the answer is: 2.0", "2", True),
        ("Answer: 1,234", "1234", True),
        ("The final answer is: (a)", "Yes", True),
        ("true", "Yes", True),
        ("I think no, it is not.", "b", True),
        ("The final answer is: B<|im_end|>", "False", True),
        ("<|latent_start|><|latent_pad|><|latent_end|>The final answer is: cat", "Cat", True),
        ("cat", "cat", True),
        ("The final answer is: 80°", "70°", False),
        ("The answer is 70°", "70°", False),  # without a colon, it reads the whole line
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", False),  # a box with braces inside is not read
        ("The final answer is: 70 degrees", "70°", False),
        ("The final answer is: 0.5", "1/2", False),
        ("yes or no", "Yes", False),
        ("", "Yes", False),
    ],
)
def test_answers_are_judged_as_ilvr_judges_them(completion, gold, right):
    assert grade(completion, gold, grader="comt") == float(right)


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999", "1" * 5000])
def test_no_number_raises(text):
    assert isinstance(normalize_answer(text), str)


def test_an_empty_gold_is_refused():
    with pytest.raises(GoldError, match="is empty"):
        AccuracyReward().check_gold(Group("**", (Rollout("x"),), grader="comt"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["final answer" + "\n" * 100_000, "answer: " * 20_000, "\\boxed{" * 50_000, "a " * 50_000, "final " * 50_000],
)
def test_hostile_completions_are_read_in_bounded_time(text):
    assert isinstance(read_answer(text), str)
