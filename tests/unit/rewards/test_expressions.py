"""Spellings and notations that are read before math-verify is asked; the verdicts are in the integration tests."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import Group, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.expressions.constants import read_constant
from covt_rewards.expressions.labels import is_words
from covt_rewards.expressions.notations import compare_notations, read_letters
from covt_rewards.expressions.quantities import read_quantity
from covt_rewards.expressions.respell import respell


@pytest.mark.parametrize(
    ("text", "respelled"),
    [
        ("2.5e-03", r"2.5 \times 10^{-3}"),
        (r"1\,234\,567", "1234567"),
        ("3 1/2", r"3\frac{1}{2}"),
        ("x ≤ √5", r"x \le  \sqrt{5}"),
        ("**7**", "7"),
    ],
)
def test_a_number_is_freed_from_what_stands_around_it(text: str, respelled: str) -> None:
    assert respell(text) == respelled


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\$1,250.50", "1,250.50"),
        ("-$5", "-5"),
        ("5 small balls", "5"),
        ("60 miles per hour", "60"),
        ("9.8 m/s^2", "9.8"),
        (r"20^\circ\text{C}", "20"),
        ("2.5 million dollars", "2500000"),
    ],
)
def test_a_number_is_freed_from_its_unit(text: str, value: str) -> None:
    quantity = read_quantity(text)
    assert quantity is not None
    assert quantity.text == value


@pytest.mark.parametrize(
    "text",
    ["", "x", "2x", "5 or more", "3e", "1 23", "12 34 56", "3 1/2/4", r"\frac{1}{2}", "(1, 2)", "$x", "5 m"],
)
def test_everything_else_stays_as_it_is(text: str) -> None:
    assert respell(text) == text


@given(st.integers(0, 999), st.text("0123456789", max_size=5), st.text("0123456789", min_size=1, max_size=5))
def test_a_repeating_decimal_is_the_limit_of_its_digits(whole: int, fixed: str, repeated: str) -> None:
    value = read_constant(respell(rf"{whole}.{fixed}\overline{{{repeated}}}"))
    near = Fraction(f"{whole}.{fixed}{repeated * 8}")
    assert isinstance(value, Fraction)
    assert abs(value - near) <= Fraction(1, 10 ** (len(fixed) + 8 * len(repeated)))


@given(st.text(max_size=400))
def test_no_text_raises(text: str) -> None:
    respell(text)
    compare_notations(text, "5%")
    read_letters(text)
    is_words(text)


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        (r"12.5\%", "12.5", True),
        ("12.5%", "0.125", True),
        ("12.5%", "13", None),  # wrong, says math-verify
        ("0.125", "12.5%", True),
        ("2:45 p.m.", "2:45 PM", True),
        ("2:45 p.m.", "2:45 a.m.", False),
        ("2:45", "2:45", True),
        ("204_5", "204_{5}", True),
        ("204_5", "204_6", False),
        (r"\ge 5", r"\geq 5", True),
        (r"\ge 5", "5", False),
        ("AC", "C and A", True),
        ("AC", "A, B, C", False),
        ("FACE", "CAFE", None),
        ("x", "y", None),
    ],
)
def test_a_notation_is_judged_where_both_answers_are_in_it(gold: str, answer: str, expected: bool | None) -> None:
    assert compare_notations(gold, answer) is expected


@pytest.mark.parametrize("gold", ["dog", "right triangle", r"\text{Monday}", "No", "$odd$", "不能确定"])
def test_words_are_graded_as_text(gold: str) -> None:
    assert is_words(gold)
    assert AccuracyReward()(Group(gold, (Rollout(rf"\boxed{{{gold}}}"),)))[0].value == 1.0


@pytest.mark.parametrize("gold", ["ABC", "x", "ab", "xyz", "2 dogs", r"\pi", "five", "x + y", "", "(a)"])
def test_what_may_be_mathematics_is_not(gold: str) -> None:
    assert not is_words(gold)


@pytest.mark.parametrize(
    ("options", "gold", "text", "right"),
    [
        (("45°", "50°"), "A", r"\boxed{45}", True),
        (("45°", "50°"), "A", r"\boxed{45\text{ degrees}}", True),
        (("45°", "50°"), "A", r"\boxed{45\text{ cm}}", False),
        (("12 cm", "13 cm", "12 m"), "B", r"\boxed{13}", True),
        (("12 cm", "13 cm", "12 m"), "A", r"\boxed{12}", False),  # which of the two?
        ((r"\$5", r"\$6"), "B", r"\boxed{6.00 \text{ dollars}}", True),
        (("red", "blue", "green"), "AC", r"\boxed{A, C}", True),
        (("red", "blue", "green"), "AC", "The answer is (A) and (C).", True),
        (("red", "blue", "green"), "AC", r"\boxed{A}", False),
        (("red", "blue", "green"), "AC", r"\boxed{ABC}", False),
        (("red", "blue", "green"), "AC", "no idea\nreally", False),
    ],
)
def test_options_with_units_and_questions_with_several(
    options: tuple[str, ...], gold: str, text: str, right: bool
) -> None:
    (result,) = AccuracyReward()(Group(gold, (Rollout(text),), options=options))
    assert result.value == float(right)
