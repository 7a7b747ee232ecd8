"""Of several answers the last one that is meant as such counts: after the thinking, and after a number in a box."""

import pytest

from covt_rewards import grade

MATH = [
    # A thought tries an answer out; the answer stands behind it.
    (r"<think>maybe \boxed{4}</think> The answer is 5.", "5", "4"),
    (r"<think>The answer is 4? No.</think>\boxed{5}", "5", "4"),
    ("<think>\\boxed{4} looks right</think>\n\n**Answer:** 5", "5", "4"),
    (r"<think>\boxed{4}?</think>5", "5", "4"),
    (r"<THINK>\boxed{4}?</THINK> so the final answer is: $5$", "5", "4"),
    (r"<think>\boxed{4}</think><think>\boxed{6}</think> The answer is 5.", "5", "4"),
    # What follows the thought is no answer, so the thought's answer counts.
    ("<think>It is \\boxed{5}.</think>\nDone.", "5", "4"),
    ("<think>It is \\boxed{5}.</think>\n", "5", "4"),
    ("<think>It is \\boxed{5}.</think> I am sure about this, as computed.", "5", "4"),
    # A final sentence after a number in a box.
    (r"I first computed \boxed{3}. But the final answer is 7.", "7", "3"),
    ("The side is \\boxed{3}.\n\nThe final answer is 7 apples.", "7", "3"),
    (r"\boxed{12} is the perimeter. The answer is -5.", "-5", "12"),
    # A sentence that repeats, rounds, or points to the box takes nothing away.
    (r"\boxed{7}. The answer is in the box.", "7", "3"),
    (r"\boxed{7}. So the answer is 7 apples.", "7", "3"),
    (r"\boxed{\frac{\pi}{4}}. The answer is 0.785.", r"\frac{\pi}{4}", "3"),
    (r"\boxed{1/3}. The answer is 0.33.", "1/3", "3"),
    (r"\boxed{1234.5}. The answer is approximately 1200.", "1234.5", "3"),
    (r"\boxed{7}. The answer is 7 because 3 + 4 = 7, and 3 is the first term.", "7", "3"),
    (r"\boxed{2.5}. Rounded, the answer is 3.", "2.5", "7"),
]


@pytest.mark.parametrize(("text", "right", "wrong"), MATH)
def test_the_last_answer_counts(text: str, right: str, wrong: str) -> None:
    assert grade(text, gold=right, grader="math") == 1.0
    assert grade(text, gold=wrong, grader="math") == 0.0


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        (r"<think>\boxed{A}?</think> The answer is B.", "B", "A"),
        (r"<think>\boxed{A}?</think>B", "B", "A"),
        ("<think>maybe A</think>\n\n(B) dog", "B", "A"),
        ("<think>A cat?</think>dog", "B", "A"),
        (r"<think>\boxed{B}</think> I chose this because it barks.", "B", "A"),
        (r"\boxed{A} would be wrong. The answer is B.", "B", "A"),
        (r"\boxed{3} legs. The answer is (B).", "B", "A"),
        (r"\boxed{B}. The answer is A dog.", "B", "C"),
        (r"\boxed{B}. The answer is not A.", "B", "A"),
        (r"\boxed{B}. The answer is B.", "B", "A"),
    ],
)
def test_the_last_choice_counts(text: str, right: str, wrong: str) -> None:
    options = ("cat", "dog", "cow")
    assert grade(text, gold=right, grader="choice", options=options) == 1.0
    assert grade(text, gold=wrong, grader="choice", options=options) == 0.0


@pytest.mark.parametrize("text", [r"<think>\boxed{cat}?</think> The answer is dog.", "<think>cat?</think>dog"])
def test_the_last_text_counts(text: str) -> None:
    assert grade(text, gold="dog", grader="text") == 1.0
    assert grade(text, gold="cat", grader="text") == 0.0


@pytest.mark.parametrize("gold", ["[[10,20,30,40]]", '[{"bbox_2d": [10, 20, 30, 40]}]'])
@pytest.mark.parametrize(
    "text",
    [
        "```json\n[[10, 20, 30, 40]]\n```",
        '```json\n[\n\t{"bbox_2d": [10, 20, 30, 40], "label": "dog"}\n]\n```',
        "Here it is:\n\n```json\n[10, 20, 30, 40]\n```\n",
        "```\n[10, 20, 30, 40]\n```",
        "First guess:\n```json\n[[1, 2, 3, 4]]\n```\nCorrected:\n```json\n[[10, 20, 30, 40]]\n```",
        '[\n  {"bbox_2d": [10, 20, 30, 40]}\n]',
    ],
)
def test_boxes_in_a_fence_without_tags_are_read(text: str, gold: str) -> None:
    assert grade(text, gold=gold, grader="boxes") == 1.0
    assert grade(text, gold="[[100,200,130,240]]", grader="boxes") == 0.0


@pytest.mark.parametrize(
    "text", ["```json\n[[10, 20, 30]]\n```", "```json\n[[10, 20, 30, 40]]", "```python\nprint([10, 20, 30, 40])\n```"]
)
def test_a_fence_without_whole_boxes_is_no_answer(text: str) -> None:
    assert grade(text, gold="[[10,20,30,40]]", grader="boxes") == 0.0
