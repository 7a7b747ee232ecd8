"""No spelling that keeps an answer's meaning changes its verdict, and no change of its value keeps it."""

from collections.abc import Callable
from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from covt_rewards import grade

Wrap = Callable[[str], str]
MARKERS: list[Wrap] = [
    lambda answer: rf"So we get \boxed{{{answer}}}.",
    lambda answer: f"<think>Let me look.</think>\n<answer>{answer}</answer>",
    lambda answer: rf"First \boxed{{0.123}}, but that is wrong. It is $\boxed{{{answer}}}$",
    lambda answer: f"<answer> {answer} </answer><|im_end|>",
    lambda answer: rf"<answer>\boxed{{{answer}}}</answer>",
]
AROUND: list[Wrap] = [
    lambda answer: answer,
    lambda answer: f"${answer}$",
    lambda answer: f"**{answer}**",
    lambda answer: f"`{answer}`",
    lambda answer: rf"\text{{{answer}}}",
    lambda answer: rf"\mathbf{{{answer}}}",
    lambda answer: f" {answer} ",
    lambda answer: f"{answer}.",
    lambda answer: f"{answer}。",
    lambda answer: f'"{answer}"',
    lambda answer: f"x = {answer}",
    lambda answer: f"The answer is {answer}",
    lambda answer: f"Answer: {answer}",
    lambda answer: f"答案是{answer}",
]
UNITS = [
    "cm",
    "m^2",
    r"\text{ kg}",
    "km/h",
    "°C",
    "mL",
    "dollars",
    "apples",
    "个",
    r"\mathrm{~cm}^{2}",
    "square meters",
]
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
]
WORDS += ["seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    if number < 20:
        return WORDS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{WORDS[number % 10]}" if number % 10 else "")
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{WORDS[number // 100]} hundred{rest}"


@st.composite
def spelled_numbers(draw: st.DrawFn, value: Fraction) -> str:
    """A number written in one of the ways that mean it."""
    decimal = float(value)
    ways = [rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{value.numerator}/{value.denominator}"]
    if Fraction(str(decimal)) == value:
        ways.append(f"{decimal}")
    if value.denominator == 1:
        whole = value.numerator
        ways = [
            str(whole),
            f"{whole}.0",
            f"{whole:,}",
            f"{whole:,}".replace(",", r"\,"),
            f"{whole:,}".replace(",", "{,}"),
        ]
        ways += [f"{float(whole):e}"] if abs(whole) < 10**6 else []
        if 0 <= whole < 1000:
            ways += [in_words(whole), str(whole).translate(str.maketrans("0123456789", "０１２３４５６７８９"))]
        if whole < 0:
            ways += [f"−{-whole}", f"minus {-whole}"]
    return draw(st.sampled_from(ways))


VALUES = st.one_of(
    st.integers(-2_000_000, 2_000_000).map(Fraction),
    st.fractions(-50, 50, max_denominator=40),
    st.integers(0, 99).map(Fraction),
)


@settings(deadline=None, max_examples=150)
@given(st.data(), VALUES, st.sampled_from(MARKERS), st.sampled_from(AROUND))
def test_a_number_is_right_in_any_spelling(data: st.DataObject, value: Fraction, mark: Wrap, around: Wrap) -> None:
    gold, answer = data.draw(spelled_numbers(value)), data.draw(spelled_numbers(value))
    assume("frac" not in answer or "{frac}" not in around("frac"))  # nobody writes a fraction inside a text command
    assert grade(mark(around(answer)), gold, "math") == 1.0


@settings(deadline=None, max_examples=150)
@given(st.data(), VALUES, VALUES, st.sampled_from(MARKERS), st.sampled_from(AROUND))
def test_another_number_is_wrong_in_any_spelling(
    data: st.DataObject, value: Fraction, other: Fraction, mark: Wrap, around: Wrap
) -> None:
    assume(value != other and value * 100 != other and other * 100 != value)
    gold, answer = data.draw(spelled_numbers(value)), data.draw(spelled_numbers(other))
    assert grade(mark(around(answer)), gold, "math") == 0.0


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 5000), st.integers(2, 5000), st.sampled_from(UNITS), st.sampled_from(MARKERS))
def test_a_unit_may_be_named_and_changes_no_number(value: int, other: int, unit: str, mark: Wrap) -> None:
    assume(value != other)
    assert grade(mark(f"{value} {unit}"), str(value), "math") == 1.0
    assert grade(mark(str(value)), f"{value} {unit}", "math") == 1.0
    assert grade(mark(f"{value} {unit}"), f"{value} {unit}", "math") == 1.0
    assert grade(mark(f"{other} {unit}"), f"{value} {unit}", "math") == 0.0
    assert grade(mark(f"{other} {unit}"), str(value), "math") == 0.0


CHANGES = [
    "{} dozen",
    "{} thousand",
    "{}!",
    "{}^2",
    r"\sqrt{{{}}}",
    "{}x",
    "-{}",
    "{} or 1",
    "1, {}",
    "at least {}",
    "{}-1",
]
CHANGES += [
    "{} + 1",
    "not {}",
    "{}i",
    "{}/7",
    "{}00",
    "0.0{}",
    "{}:7",
    "half of {}",
    r"{}\pi",
    "1{}",
    "{} to 99",
    "{}th",
]


@settings(deadline=None, max_examples=100)
@given(st.integers(3, 900), st.sampled_from(CHANGES), st.sampled_from(MARKERS))
def test_what_changes_a_number_makes_it_wrong(value: int, change: str, mark: Wrap) -> None:
    assert grade(mark(change.format(value)), str(value), "math") == 0.0


ANIMALS = ("cat", "dog", "horse", "blue whale", "snake")
SPELLINGS: list[Callable[[str, str], str]] = [
    lambda letter, text: letter,
    lambda letter, text: letter.lower(),
    lambda letter, text: f"({letter})",
    lambda letter, text: f"[{letter}]",
    lambda letter, text: f"【{letter}】",
    lambda letter, text: f"{letter}.",
    lambda letter, text: f"{letter}. {text}",
    lambda letter, text: f"({letter}) {text}",
    lambda letter, text: f"{letter}: {text.title()}",
    lambda letter, text: text,
    lambda letter, text: text.upper(),
    lambda letter, text: f"a {text}",
    lambda letter, text: rf"\text{{{letter}}}",
    lambda letter, text: rf"\textbf{{({letter})}}",
    lambda letter, text: f"**{letter}**",
    lambda letter, text: f"Option {letter}",
    lambda letter, text: f"The answer is {letter}",
    lambda letter, text: f"It is a {text}.",
    lambda letter, text: f"{letter}, because I see it",
    lambda letter, text: f"选{letter}",
    lambda letter, text: f"答案：{letter}",
    lambda letter, text: f"I choose {letter}.",
]


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from(SPELLINGS),
    st.sampled_from(SPELLINGS),
    st.sampled_from(MARKERS),
)
def test_an_option_is_the_same_in_any_spelling(
    gold: int, chosen: int, write_gold: Callable[[str, str], str], write: Callable[[str, str], str], mark: Wrap
) -> None:
    answer = write_gold("ABCDE"[gold], ANIMALS[gold])
    completion = mark(write("ABCDE"[chosen], ANIMALS[chosen]))
    assert grade(completion, answer, "choice", options=ANIMALS) == float(gold == chosen)


JOINS = [", ", ",", " and ", "", "; ", "/", "、", " ", " & ", "\n"]


@settings(deadline=None, max_examples=150)
@given(st.sets(st.sampled_from("ABCDE"), min_size=2), st.sets(st.sampled_from("ABCDE"), min_size=1), st.data())
def test_several_letters_are_a_set_in_any_spelling(gold: set[str], chosen: set[str], data: st.DataObject) -> None:
    def write(letters: set[str]) -> str:
        return data.draw(st.sampled_from(JOINS)).join(data.draw(st.permutations(sorted(letters))))

    answer, completion = write(gold), f"<answer>{write(chosen)}</answer>"
    assert grade(completion, answer, "choice", options=ANIMALS) == float(gold == chosen)
