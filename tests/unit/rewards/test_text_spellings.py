"""Words and labels in the spellings that people use, right and wrong ones, through the grader `text`."""

import pytest

from covt_rewards import grade

CASES: list[tuple[str, list[str], list[str]]] = [
    (
        "red",
        [
            "red",
            "Red",
            "RED",
            "red.",
            '"red"',
            "**red**",
            "*red*",
            "`red`",
            "\\text{red}",
            "\\textit{red}",
            "It is red",
            "it's red",
            "The answer is red",
            "a red",
            " red ",
            "Answer: red",
            "red。",
            "\\boxed{red}",
        ],
        [
            "blue",
            "not red",
            "red and blue",
            "red or blue",
            "dark red",
            "reddish",
            "redder",
            "It is not red",
            "bred",
            "",
            "r",
            "ed",
            "It is blue",
            "no red",
            "red, blue",
            "infrared",
        ],
    ),
    (
        "golden retriever",
        [
            "Golden Retriever",
            "a golden retriever",
            "golden  retriever",
            "Golden retriever.",
            "golden-retriever",
            "It is a golden retriever",
        ],
        ["golden", "retriever", "labrador", "golden retriever and a cat", "not a golden retriever"],
    ),
    (
        "Yes",
        ["yes", "Yes.", "Yes, it is", "YES", "yes, the ball is red"],
        ["No", "No, yes is wrong", "not yes", "maybe", "no", ""],
    ),
    (
        "No",
        ["no", "No.", "No, it isn't", "no, none"],
        ["Yes", "There is no ball", "not", "Nothing", "know", "Yes, no doubt"],
    ),
    ("O'Brien", ["O’Brien", "O'Brien", "o'brien"], ["O'Reilly", "Brien"]),
    ("Mr. Smith", ["Mr Smith", "mr. smith", "Mr. Smith."], ["Mrs. Smith", "Smith", "Mr. Smyth"]),
    ("是", ["是", "是的", "是。"], ["不是", "否", "不"]),
    ("红色", ["红色", "红色。", "答案是红色"], ["蓝色", "不是红色", "红"]),
    ("north-east", ["northeast", "North-East", "north east"], ["north", "east", "north-west"]),
    ("5-3", ["5-3", "5 - 3", "5–3"], ["53", "2", "3-5", "5.3"]),
    ("1920x1080", ["1920x1080", "1920 × 1080", "1920X1080", "1920×1080"], ["1080x1920", "19201080", "1920"]),
    ("H2O", ["H2O", "H_2O", "\\text{H}_2\\text{O}", "H₂O", "\\mathrm{H_2O}", "h2o"], ["HO", "H2O2", "CO2", "2HO"]),
    ("2nd", ["2nd", "second", "2ND"], ["2", "3rd", "1st", "third"]),
    ("N/A", ["N/A", "n/a"], ["5", "none", "A"]),
    ("U.S.A.", ["USA", "U.S.A."], ["UK"]),
    ("1.2.3", ["1.2.3"], ["123", "1.2", "1.2.4", "12.3"]),
    ("B3", ["B3", "b3", "\\text{B3}"], ["B2", "3B", "B", "3", "B33"]),
    ("-5", ["-5", "−5"], ["5", "5-"]),
    ("none", ["None", "none."], ["one", "some"]),
]


@pytest.mark.parametrize(("gold", "right", "wrong"), CASES)
def test_words_are_the_same_in_any_spelling(gold: str, right: list[str], wrong: list[str]) -> None:
    assert [answer for answer in right if grade(f"<answer>{answer}</answer>", gold, "text") != 1.0] == []
    assert [answer for answer in wrong if grade(f"<answer>{answer}</answer>", gold, "text") != 0.0] == []
