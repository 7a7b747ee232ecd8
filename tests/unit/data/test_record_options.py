"""Options: written into the question, in a field of their own, and named by the gold answer."""

from dataclasses import replace
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_data.records.gold_answers import judge_gold
from covt_data.records.image_tags import place_image_tags
from covt_data.records.option_fields import get_options
from covt_data.records.parsed_record import ParsedRecord, ParsedStep
from covt_data.records.step_texts import end_with_answer
from covt_data.records.written_options import find_options
from covt_data.rejects import Reason, Rejected

WRITTEN = {
    "lines in parentheses": ("Which?\n(A) cat\n(B) dog", ["cat", "dog"]),
    "lines with dots": ("Which?\nA. cat\nB. dog\nC. cow", ["cat", "dog", "cow"]),
    "lines with colons": ("Which?\nA: cat\nB: dog", ["cat", "dog"]),
    "lines with one parenthesis": ("Which?\nA) cat\nB) dog", ["cat", "dog"]),
    "brackets": ("Which?\n[A] cat\n[B] dog", ["cat", "dog"]),
    "bullets": ("Which?\n- A. cat\n- B. dog", ["cat", "dog"]),
    "bold letters": ("Which?\n**A.** cat\n**B.** dog", ["cat", "dog"]),
    "bold options": ("Which?\n**A. cat**\n**B. dog**", ["cat", "dog"]),
    "small letters on lines": ("Which?\n(a) cat\n(b) dog", ["cat", "dog"]),
    "one line": ("How large? (A) 70° (B) 80° (C) 90°", ["70°", "80°", "90°"]),
    "one line with dots": ("Which? A. cat B. dog C. cow", ["cat", "dog", "cow"]),
    "one line with commas": ("Choose: (A) cat, (B) dog, or (C) cow", ["cat", "dog", "cow"]),
    "two lines of two": ("Which?\nA. cat  B. dog\nC. cow  D. owl", ["cat", "dog", "cow", "owl"]),
    "a heading": ("Which?\nChoices:\n(A) cat\n(B) dog", ["cat", "dog"]),
    "a heading on the line": ("Which?\nOptions: A. cat B. dog", ["cat", "dog"]),
    "blank lines between": ("Which?\n\nA. cat\n\nB. dog\n\n", ["cat", "dog"]),
    "text on the next line": ("Which?\nA.\ncat\nB.\ndog", ["cat", "dog"]),
    "a request on the next line": ("Which?\nA. cat\nB. dog\nPlease answer directly.", ["cat", "dog"]),
    "a hint on the next line": ("Which?\nA. cat\nB. dog\nHint: give the letter, e.g., A, B, C.", ["cat", "dog"]),
    "a request behind a blank line": ("Which?\nA. cat\nB. dog\n\nAnswer with the letter.", ["cat", "dog"]),
    "a request on the line": ("Which? A. cat B. dog Please answer with the letter.", ["cat", "dog"]),
    "a request behind a sentence": ("Which?\nA. It sits.\nB. It runs. Choose one.", ["It sits.", "It runs."]),
    "Chinese marks": ("哪个？\nA、猫\nB、狗\n请回答", ["猫", "狗"]),
    "Chinese brackets": ("哪个？（A）猫（B）狗", ["猫", "狗"]),
    "no space": ("哪个？\nA.猫\nB.狗", ["猫", "狗"]),
    "full-width letters": ("Which?\nＡ．cat\nＢ．dog", ["cat", "dog"]),
    "formulas": ("Which?\n(A) $x^2$\n(B) $\\frac{1}{2}$", ["$x^2$", "$\\frac{1}{2}$"]),
    "images": ("Which?\nA. <image>\nB. <image>", ["<image>", "<image>"]),
    "duplicates": ("Which?\nA. cat\nB. cat", ["cat", "cat"]),
    "a second list counts": ("(A) x (B) y in the figure. Which?\n(A) cat\n(B) dog", ["cat", "dog"]),
    "twelve": ("Which?\n" + "\n".join(f"{letter}. {letter}{letter}" for letter in "ABCDEFGHIJKL"),
               [letter * 2 for letter in "ABCDEFGHIJKL"]),
}  # fmt: skip

NOT_WRITTEN = {
    "none": "How many dots are there?",
    "parts of a figure": "As shown in (A) and (B), which is larger?",
    "points": "In triangle ABC, angle A: 30 and angle B: 40. Find C.",
    "initials": "What did A. Smith and B. Jones find?",
    "one letter": "Which?\nA. cat",
    "a gap": "Which?\nA. cat\nB. dog\nD. cow",
    "no first": "Which?\nB. dog\nC. cow",
    "a blank option": "Which?\nA.\nB. dog",
    "vitamins": "Vitamin A. is one; another? (C) no",
    "listed letters": "Return A, B or C.",
}


@pytest.mark.parametrize("case", WRITTEN)
def test_options_written_into_a_question_are_found(case):
    question, options = WRITTEN[case]
    assert list(find_options(question)) == options


@pytest.mark.parametrize("case", NOT_WRITTEN)
def test_what_only_looks_like_options_is_none(case):
    assert find_options(NOT_WRITTEN[case]) == ()


WORDS = st.text("bcdfghz0123456789²°$\\\\{}^+-=/ ", min_size=1, max_size=12).map(str.strip).filter(bool)


@given(
    st.lists(WORDS, min_size=2, max_size=10),
    st.sampled_from(["({}) {}", "{}. {}", "{}) {}", "{}: {}", "[{}] {}", "- {}. {}", "**{}.** {}"]),
    st.sampled_from(["\n", "\n\n", "  "]),
    st.sampled_from(["", "\n", "\n\nPlease answer with the letter.", "\nAnswer directly:"]),
)
def test_options_in_every_style_are_read_back(texts, style, between, behind):
    lines = [style.format(letter, text) for letter, text in zip(ascii_uppercase, texts, strict=False)]
    if between == "  " and style.startswith("-"):
        return  # bullets stand on lines
    assert list(find_options("Which one?\n" + between.join(lines) + behind)) == texts


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    ["A. " * 300_000, "A. x B. y " * 100_000, "(A) x" + " " * 300_000 + "(B) y" + " " * 300_000 + "z", "\n" * 500_000,
     "A. x\nB. y" + " Please" * 100_000, "<image" + " " * 500_000, "A. x" + "\n " * 200_000 + "B. y"],
)  # fmt: skip
def test_no_question_takes_long(text):
    assert isinstance(find_options(text), tuple)
    place_image_tags(text, ())
    end_with_answer([ParsedStep(text)], "x")


FIELDS = {
    "a list": ["cat", "dog"],
    "an object": {"A": "cat", "B": "dog"},
    "an object out of order": {"B": "dog", "A": "cat"},
    "a struct with unused letters": {"A": "cat", "B": "dog", "C": None, "D": None},
    "letters in parentheses": {"(A)": "cat", "(B)": "dog"},
    "small letters": {"a": "cat", "b": "dog"},
    "labels and texts": {"label": ["A", "B"], "text": ["cat", "dog"]},
    "JSON of a list": '["cat", "dog"]',
    "JSON of an object": '{"A": "cat", "B": "dog"}',
    "Python text": "['cat', 'dog']",
    "lines": "A. cat\nB. dog",
}


@pytest.mark.parametrize("case", FIELDS)
def test_options_of_a_field_are_read_in_every_usual_form(case):
    assert get_options(FIELDS[case], "options") == ("cat", "dog")


def test_numbers_and_booleans_are_texts_and_nothing_is_no_options():
    assert get_options([1, 2.5], "options") == ("1", "2.5")
    assert get_options([True, False], "options") == ("True", "False")
    assert get_options(None, "options") == get_options(float("nan"), "options") == get_options([], "options") == ()
    assert get_options("", "options") == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "options = 3 is not a list"),
        ("cat", "write a JSON list"),
        (["cat", None], r"options\[1\] = None is not text"),
        (["cat", float("nan")], r"options\[1\] = nan is not text"),
        (["cat", " "], r"options\[1\] is blank"),
        (["cat", ["dog"]], r"options\[1\]"),
        ({"A": "cat", "C": "dog"}, "the letters A, B, … are needed"),
        ({"x": "cat"}, "the letters A, B, … are needed"),
        ({"A": None}, "the letters A, B, … are needed"),
    ],
)
def test_options_that_cannot_be_read_are_named(value, words):
    with pytest.raises(Rejected, match=words) as caught:
        get_options(value, "options")
    assert caught.value.reason is Reason.WRONG_TYPE


ANIMALS = ("cat", "dog", "cow")


def record(answer, options=(), written=(), grader=None):
    return ParsedRecord("a", "q", answer, options=options, written_options=written, grader=grader)


@pytest.mark.parametrize(
    "answer",
    ["B", "b", "(B)", "B.", "B)", "dog", "Dog", "DOG", "B. dog", "(B) dog", "B: dog", "Option B", "option b",
     "\\text{B}", "\\text{dog}", "A,C", "A, C", "AC", "A and C", "A;C", "cow"],
)  # fmt: skip
def test_a_gold_that_names_options_is_a_choice(answer):
    for parsed in (record(answer, ANIMALS), record(answer, written=ANIMALS)):
        judgment = judge_gold(parsed)
        assert (judgment.grader, judgment.options) == ("choice", ANIMALS)


@pytest.mark.parametrize("answer", ["D", "E", "(F)", "1", "2", "bird", "AE", "12.5", "none of these"])
def test_a_gold_that_names_no_option_is_refused(answer):
    with pytest.raises(Rejected) as caught:
        judge_gold(record(answer, ANIMALS))
    assert caught.value.reason is Reason.BAD_GOLD and repr(answer) in caught.value.detail


def test_a_named_grader_may_judge_an_answer_beside_the_options():
    assert judge_gold(record("bird", ANIMALS, grader="text")).grader == "text"


def test_options_of_a_question_are_dropped_when_the_gold_names_none():
    judgment = judge_gold(record("12", written=ANIMALS))
    assert (judgment.grader, judgment.options) == ("math", ())
    with pytest.raises(Rejected, match="no option E"):
        judge_gold(record("E", written=ANIMALS))


@pytest.mark.parametrize(
    ("answer", "grader"),
    [
        ("C", "choice"), ("12", "math"), ("\\frac{1}{2}", "math"), ("x=3", "math"), ("(1, 2)", "math"),
        ("3.5 cm", "math"), ("50%", "math"), ("a red bird", "text"), ("Yes", "text"),
        ("2024-01-05", "text"), ("05/01/2024", "text"), ("2010-2015", "text"), ("555-1234", "text"),
        ("a@b.com", "text"), ("http://x.org/a?b=1", "text"), ("www.x.org", "text"), ("::1", "text"),
        ("fe80::1:2", "text"), ("+49 123 456", "text"), ("(555) 123-4567", "text"), ("555 1234", "text"),
        ("ISBN 978-3", "text"), ("#FF0000", "text"), ("1990s", "text"), ("1 000", "math"), ("10:30", "math"),
        ("(2)(3)-4", "math"), ("2x", "math"),
        ("v1.2.3", "text"), ("1.2.3", "text"), ("192.168.0.1", "text"), ("C++", "text"), ("C#", "text"),
        ('[{"bbox_2d": [1, 2, 30, 40], "point_2d": [5, 6]}]', "boxes"),
    ],
)  # fmt: skip
def test_without_options_the_answer_decides(answer, grader):
    assert judge_gold(record(answer)).grader == grader


def test_a_map_in_the_metadata_makes_a_plan_and_other_rows_do_not():
    plan = ParsedRecord("a", "q", "R,R", metadata={"rows": ["SFG", "FHF", "FFF"]})
    assert judge_gold(plan).grader == "vsp"
    for rows in (3, "SFG", ["abc"], None, [[1, 2]]):
        assert judge_gold(ParsedRecord("a", "q", "12", metadata={"rows": rows, "columns": 4})).grader == "math"
    with pytest.raises(Rejected, match="the plan does not solve the map"):
        judge_gold(replace(plan, answer="D,R"))
    with pytest.raises(Rejected, match="needs its map"):
        judge_gold(ParsedRecord("a", "q", "R,R", grader="vsp"))


@pytest.mark.parametrize("answer", ["???", "---"])
def test_a_gold_that_its_grader_cannot_read_is_refused_with_the_value(answer):
    with pytest.raises(Rejected) as caught:
        judge_gold(record(answer))
    assert caught.value.reason is Reason.BAD_GOLD
    assert repr(answer) in caught.value.detail and "judged as" in caught.value.detail
