"""Fields of records: texts, gold answers, pass rates, images, image tags, control tokens, last steps."""

import base64
import json
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import picture

from covt_data.records.control_tokens import find_control_token
from covt_data.records.field_values import HugeInteger, get_id, get_label, get_pass_rate, get_text, read_integer
from covt_data.records.gold_fields import get_answer
from covt_data.records.image_fields import get_image_refs
from covt_data.records.image_tags import place_image_tags
from covt_data.records.parsed_record import EmbeddedImage, ParsedStep
from covt_data.records.step_texts import end_with_answer
from covt_data.rejects import Reason, Rejected
from covt_data.sources.column_names import find_column, has_column, look_up, question_of_turns, suggest_columns

NAN, INFINITY = float("nan"), float("inf")


# Texts


def test_numbers_become_text_and_other_values_are_refused_by_field():
    assert [get_text({"k": value}, "k") for value in ("x", 3, 2.5, "", 10**30)] == ["x", "3", "2.5", "", str(10**30)]
    assert get_text({"k": date(2024, 1, 5)}, "k") == "2024-01-05" and get_text({"k": Decimal("1.50")}, "k") == "1.50"
    for value in (True, [1], {"a": 1}, b"x", INFINITY, read_integer("9" * 4301)):
        with pytest.raises(Rejected, match="k = ") as caught:
            get_text({"k": value}, "k")
        assert caught.value.reason is Reason.WRONG_TYPE


def test_a_missing_field_is_reported_with_the_fields_of_the_record():
    with pytest.raises(Rejected, match=r"no 'k'; the record's fields are id, problem$"):
        get_text({"id": 1, "problem": "x"}, "k")
    with pytest.raises(Rejected, match=r"k is nan$"):
        get_text({"k": NAN}, "k", Reason.EMPTY_QUESTION)


def test_integers_are_read_up_to_the_limit():
    assert read_integer("-" + "9" * 4299) == -int("9" * 4299)
    huge = read_integer("-" + "9" * 5000)
    assert isinstance(huge, HugeInteger) and repr(huge) == "an integer of 5000 digits"


def test_empty_ids_and_categories_are_absent():
    assert get_id({"id": None}, "id", "x") == get_id({"id": NAN}, "id", "x") == get_id({}, "id", "x") == "x"
    assert get_id({"id": 0}, "id", "x") == "0"
    assert get_label({"c": NAN}, "c") is get_label({"c": ""}, "c") is get_label({}, "c") is None
    assert get_label({"c": 3}, "c") == "3"


@pytest.mark.parametrize("value", [None, NAN, -1, -1.0])
def test_a_pass_rate_may_be_absent(value):
    assert get_pass_rate({"r": value}, "r") is None


@pytest.mark.parametrize("value", [0, 0.5, 1, 1.0])
def test_a_pass_rate_is_a_share(value):
    assert get_pass_rate({"r": value}, "r") == value


@pytest.mark.parametrize("value", ["0.5", 50, 1.01, -0.5, True, INFINITY, [0.5], "50%"])
def test_a_pass_rate_of_another_kind_is_refused(value):
    with pytest.raises(Rejected, match=r"r = .* is not a share: write a number from 0 to 1"):
        get_pass_rate({"r": value}, "r")


# Gold answers


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("red", "red"), (5, "5"), (2.5, "2.5"), ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), (["red"], "red"),
        ([7], "7"), (["\\boxed{7}"], "7"), (True, "Yes"), (False, "No"), ([True], "Yes"), (["A", "C"], "A, C"),
        (["(A)", "(C)"], "(A), (C)"), ("NaN", "NaN"), ("Infinity", "Infinity"),
    ],
)  # fmt: skip
def test_an_answer_is_read_in_every_usual_form(value, answer):
    assert get_answer({"answer": value}, "answer", "Is it red?") == answer


def test_booleans_are_true_or_false_where_the_question_or_the_options_say_so():
    assert get_answer({"a": True}, "a", "True or false: it is red.") == "True"
    assert get_answer({"a": False}, "a", "Is it?", ("true", "false")) == "False"
    assert get_answer({"a": False}, "a", "Is it true?", ("Yes", "No")) == "No"


def test_boxes_become_json():
    boxes = [{"bbox_2d": [1, 2, 3, 4], "point_2d": [2, 3]}]
    assert json.loads(get_answer({"a": boxes}, "a")) == boxes == json.loads(get_answer({"a": boxes[0]}, "a"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY_ANSWER), ("", Reason.EMPTY_ANSWER), (" ", Reason.EMPTY_ANSWER), (NAN, Reason.EMPTY_ANSWER),
        (INFINITY, Reason.EMPTY_ANSWER), (-INFINITY, Reason.EMPTY_ANSWER), ([], Reason.EMPTY_ANSWER),
        ("\\boxed{}", Reason.EMPTY_ANSWER), ("\\boxed{1", Reason.ANSWER_BRACES), ([NAN], Reason.WRONG_TYPE),
        ([None], Reason.WRONG_TYPE), (["red", "blue"], Reason.WRONG_TYPE), ([["red"]], Reason.WRONG_TYPE),
        ({"text": "red"}, Reason.WRONG_TYPE), ([{"text": "red"}], Reason.WRONG_TYPE), (b"red", Reason.WRONG_TYPE),
        ("\ud800", Reason.NOT_UTF8), (["\ud800"], Reason.NOT_UTF8),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_refused_by_field(value, reason):
    with pytest.raises(Rejected) as caught:
        get_answer({"answer": value}, "answer")
    assert caught.value.reason is reason


# Images

PNG = picture()


def test_images_are_read_in_every_usual_form():
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    for value in (PNG, [PNG], {"bytes": PNG, "path": None}, {"bytes": PNG}, url, [url]):
        assert get_image_refs(value, "images") == (EmbeddedImage(PNG),)
    assert get_image_refs({"bytes": PNG, "path": "a.png"}, "images") == (EmbeddedImage(PNG, "a.png"),)
    for value in ("a.png", ["a.png"], {"path": "a.png"}, {"bytes": None, "path": "a.png"}, '["a.png"]'):
        assert get_image_refs(value, "images") == ("a.png",)
    assert get_image_refs(["a.png", PNG], "images") == ("a.png", EmbeddedImage(PNG))


UNUSED = {"bytes": None, "path": None}


@pytest.mark.parametrize("value", [None, "", " ", [], NAN, UNUSED, [None], ["", None], [UNUSED]])
def test_empty_images_are_absent(value):
    assert get_image_refs(value, "images") == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "images = 3 is not an image"), ([["a.png"]], "is not an image"), ({"url": "a"}, "is not an image"),
        (["a.png", None], r"images\[1\] is empty"), (True, "images = True"),
        ("data:image/png;base64,###", "not base64"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_by_field(value, words):
    with pytest.raises(Rejected, match=words):
        get_image_refs(value, "images")


# Tags

TWO = ("x/1.png", "x/2.png")


@pytest.mark.parametrize(
    ("question", "order"),
    [
        ("<image> vs <image>", [0, 1]),
        ("<image1> vs <image2>", [0, 1]),
        ("<image2> vs <image1>", [1, 0]),
        ("<image 2> vs <image 1>", [1, 0]),
        ("<image_2> vs <IMAGE_1>", [1, 0]),
        ("<image1> vs <image0>", [1, 0]),
        ("<image1> vs <image2>, and <image1> again", [0, 1, 0]),
        ("<img src='x/2.png'> vs <img src='x/1.png'>", [1, 0]),
        ('<img width="9" src="2.png"/> vs <img src=1.png>', [1, 0]),
        ("<img> vs <img>", [0, 1]),
        ("<img src='other.png'> vs <img src='names.png'>", [0, 1]),
        ("no tags", [0, 1]),
    ],
)
def test_images_follow_the_tags_of_the_question(question, order):
    text, images = place_image_tags(question, TWO)
    assert images == tuple(TWO[number] for number in order)
    assert text.count("<image>") == len(order) and "<img" not in text


@given(st.integers(1, 9).flatmap(lambda count: st.permutations(range(count))), st.integers(0, 1))
def test_any_order_of_numbered_tags_is_the_order_of_the_images(order, first):
    names = tuple(f"{number}.png" for number in range(len(order)))
    if first == 1 or 0 in order:  # numbers that begin with 0 need it
        text, images = place_image_tags(" ".join(f"<image{number + first}>" for number in order), names)
        assert images == tuple(names[number] for number in order)
        assert text == " ".join(["<image>"] * len(order))


@pytest.mark.parametrize(
    "question",
    ["<image>", "<image><image><image>", "<image1>", "<image1> <image3>", "<image2> <image3>", "<image1> <image>",
     "<image9> <image1>", "<img src='1.png'> <img src='3.png'>", "<image1> <image1>"],
)  # fmt: skip
def test_tags_that_do_not_fit_the_images_are_refused(question):
    with pytest.raises(Rejected) as caught:
        place_image_tags(question, TWO)
    assert caught.value.reason is Reason.IMAGE_COUNT


def test_tags_may_be_moved_to_the_front():
    assert place_image_tags("a <image2> b", TWO, in_front=True) == ("<image><image>a  b", TWO)


# Control tokens


@pytest.mark.parametrize(
    "token",
    ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
     "<|latent_start|>", "<|latent_pad|>", "<|latent_end|>", "<|eot_id|>", "<|begin_of_text|>", "<|user|>",
     "<｜end▁of▁sentence｜>", "<|box_start|>"],
)  # fmt: skip
def test_control_tokens_are_found_in_a_text(token):
    assert find_control_token(f"so{token}B3") == token


@pytest.mark.parametrize("text", ["a < b", "|x| < 3", "<|x|>", "<image>", "a<|b", "x <| y |> z", "<b>bold</b>"])
def test_mathematics_and_markup_are_no_control_tokens(text):
    assert find_control_token(text) is None


# Last steps


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("The final answer is: 70°", ["The final answer is: \\boxed{70°}"]),
        ("So it is equal.\nThe answer is 70°.", ["So it is equal.\nThe answer is \\boxed{70°}"]),
        ("Answer: 70°", ["Answer: \\boxed{70°}"]),
        ("The final answer is: (A) 70°", ["The final answer is: \\boxed{70°}"]),
        ("The final answer is: A", ["The final answer is: \\boxed{70°}"]),
        ("Thus \\boxed{70°}", ["Thus \\boxed{70°}"]),
        ("So they are equal.", ["So they are equal.", "\\boxed{70°}"]),
        ("The answer is 75°.", ["The answer is 75°.", "\\boxed{70°}"]),
        ("The answer is B.", ["The answer is B.", "\\boxed{70°}"]),
        ("The answer is 70° or so, we think.", ["The answer is 70° or so, we think.", "\\boxed{70°}"]),
    ],
)
def test_the_answer_stands_once_at_the_end_of_the_steps(last, expected):
    steps = end_with_answer([ParsedStep(images=("a.png",)), ParsedStep(last)], "70°", ["70°", "80°"])
    assert [step.text for step in steps[1:]] == expected


@pytest.mark.parametrize(
    ("last", "answer", "same"),
    [
        ("The final answer is: 70°", "A", True), ("The final answer is: 70°", "(A) 70°", True),
        ("The final answer is: 70°", "70", True), ("The answer is: A", "A", True), ("The answer is: b", "80°", True),
        ("The final answer is: 70°", "B", False), ("The answer is: C", "70°", False), ("The answer is: C", "D", False),
    ],
)  # fmt: skip
def test_a_letter_and_its_option_are_the_same_answer(last, answer, same):
    steps = end_with_answer([ParsedStep(last)], answer, ["70°", "80°"])
    assert len(steps) == (1 if same else 2) and (steps[-1].text or "").endswith(f"\\boxed{{{answer}}}")


def test_an_image_at_the_end_gets_the_answer_behind_it():
    assert end_with_answer([ParsedStep(images=("a.png",))], "7")[1:] == (ParsedStep("\\boxed{7}"),)
    assert end_with_answer([], "7") == ()


# Columns


@pytest.mark.parametrize(
    ("data", "suggested"),
    [
        ({"problem": 1, "solution": 1}, "columns=question=problem,answer=solution"),
        ({"question": 1, "gold": 1}, "columns=answer=gold"),
        ({"Prompt": 1, "Label": 1, "image": 1}, "columns=question=Prompt,images=image,answer=Label"),
        ({"question": 1, "x": 1}, "columns=answer=COLUMN"),
        (
            {"problem": 1, "reward_model": {"ground_truth": 1}},
            "columns=question=problem,answer=reward_model.ground_truth",
        ),
        ({"prompt": [], "extra_info": {"answer": 1}}, "columns=question=prompt,answer=extra_info.answer"),
        ({"conversations": [], "image": 1}, "stand in the turns of 'conversations'"),
        ({"messages": [{"role": "user", "content": "q"}], "answer": 1}, "columns=question=messages"),
        ({"messages": [], "images": 1}, "stand in the turns of 'messages'"),
    ],
)
def test_the_mapping_of_other_columns_is_suggested(data, suggested):
    absent = [name for name in ("id", "question", "images", "options", "answer") if name not in data]
    assert suggested in suggest_columns(data, absent, [])


@pytest.mark.parametrize(
    ("data", "field", "found"),
    [
        ({"image": "a.png"}, "images", "image"), ({"image": ["b/a.JPG"]}, "images", "image"),
        ({"image": {"bytes": PNG, "path": None}}, "images", "image"), ({"img": PNG}, "images", "img"),
        ({"file_name": "part3.json"}, "images", None), ({"image": None}, "images", None),
        ({"image": []}, "images", None),
        ({"image": UNUSED}, "images", None), ({"choices": ["a", "b"]}, "options", "choices"),
        ({"choices": {"A": "a"}}, "options", "choices"), ({"choices": None}, "options", None),
        ({"option": "B"}, "options", None),
    ],
)  # fmt: skip
def test_images_and_options_of_another_name_are_noticed(data, field, found):
    assert find_column(data, field) == found


def test_a_column_inside_a_column_is_found():
    data = {"reward_model": {"ground_truth": "5"}, "a.b": "dotted"}
    assert look_up(data, "reward_model.ground_truth") == "5" and look_up(data, "a.b") == "dotted"
    assert look_up(data, "reward_model.style") is look_up(data, "x.y") is look_up({"x": 3}, "x.y") is None
    assert has_column(data, "reward_model.ground_truth") and not has_column(data, "reward_model.style")


def test_the_only_user_turn_of_a_chat_is_the_question():
    ask = {"role": "user", "content": "q"}
    assert question_of_turns([ask]) == question_of_turns([{"role": "system", "content": "s"}, ask]) == "q"
    for value in ("text", 3, [], [ask, ask], [ask, {"role": "assistant", "content": "a"}], [{"role": "user"}]):
        assert question_of_turns(value) == value
