"""Where the final answer stands."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards.answers import final_answer, find_boxed, marked_answers

balanced = st.recursive(
    st.text("abc123+\\pi ", max_size=5).map(lambda s: s.replace("\\", "")),
    lambda inner: st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}"),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("text", "answer", "kind"),
    [
        (r"so \boxed{4}", "4", "boxed"),
        (r"\boxed{3} no, \boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed{\boxed{7}}", "7", "boxed"),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}", "boxed"),
        (r"{ \boxed{5}", "5", "boxed"),
        (r"} \boxed{5} }", "5", "boxed"),
        (r"\boxed{5} and \boxed{6", "5", "boxed"),
        ("<answer> B3 </answer><|im_end|>", "B3", "tag"),
        (r"<answer>it is \boxed{9}</answer>", "9", "tag"),
        (r"<answer>8</answer> wait: \boxed{9}", "9", "boxed"),
        (r"\boxed{9} <ANSWER>8</ANSWER>", "8", "tag"),
        ("a<|latent_start|><|latent_pad|><|latent_end|><answer>C1</answer>", "C1", "tag"),
        ("I think.\nThe answer is 42. Good.", "42", "phrase"),
        ("Final answer: (B)", "(B)", "phrase"),
        ("  D \n", "D", "line"),
        ("", "", "none"),
        ("a\nb\nc", "", "none"),
        (r"\boxed {x}", "x", "boxed"),
        (r"\boxed{}", "", "boxed"),
    ],
)
def test_the_last_well_formed_answer_counts(text: str, answer: str, kind: str) -> None:
    found = final_answer(text)
    assert (found.text, found.kind) == (answer, kind)


def test_strict_reading_wants_a_marker() -> None:
    assert final_answer("The answer is 42.", lenient=False).kind == "none"


@given(balanced, balanced)
def test_a_box_with_balanced_braces_is_found_whole(before: str, content: str) -> None:
    boxes, left_open = find_boxed(f"{before}\\boxed{{{content}}}")
    assert [box.content for box in boxes] == [content]
    assert left_open == 0


def test_a_box_inside_a_tag_is_counted_once() -> None:
    found = marked_answers(r"\boxed{1} <answer>\boxed{2}</answer> \boxed{3}")
    assert [(c.kind, c.content) for c in found.candidates] == [("boxed", "1"), ("tag", r"\boxed{2}"), ("boxed", "3")]


@pytest.mark.parametrize("text", [r"\boxed{1", "<answer>1", "1</answer>", "<answer><answer>1</answer>"])
def test_what_is_left_open_is_reported(text: str) -> None:
    assert marked_answers(text).problems


PIECES = ["\\", "{", "}", "b", "<answer>", "</answer>", "\\boxed{", "\\fbox {", " ", "\x00", "\ud800"]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_raises(text: str) -> None:
    assert final_answer(text).kind in ("boxed", "tag", "phrase", "line", "none", "open")


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "{", "}", "<answer>", "</answer>", "\\boxed{1}", "answer is ", "<|", "\\", " ", "<|a"]
)
def test_time_is_linear_in_hostile_texts(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    began = time.perf_counter()
    final_answer(text)
    marked_answers(text)
    assert time.perf_counter() - began < 10  # quadratic work would take hours
