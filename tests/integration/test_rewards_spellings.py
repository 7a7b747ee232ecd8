"""One answer in many spellings, right and wrong ones, through the real graders and math-verify."""

import pytest

from covt_rewards import Group, Rollout
from covt_rewards.accuracy import AccuracyReward

SAME = [
    (
        "12",
        ["12.0", "12 cm", r"12\text{ cm}^2", r"12^\circ", "12 m/s", r"12 \frac{m}{s}", "12 apples", "**12**", "twelve"],
    ),
    ("12 cm", ["12", r"12 \text{ cm}", "12cm"]),
    ("45°", ["45", r"45^\circ", r"45^{\circ}", "45°", r"45\degree", "45 degrees"]),
    ("28%", ["28", r"28\%", "28 percent", r"28\text{ percent}", "0.28", r"\frac{7}{25}"]),
    (r"12.5\%", ["12.5", "12.5%", "0.125"]),
    ("0.28", [r"28\%"]),
    (r"\$18.50", ["18.5", r"\$18.50", "18.50 dollars"]),
    ("€1,250", ["1250", "1,250 euros"]),
    ("1234567", ["1,234,567", r"1{,}234{,}567", r"1\,234\,567", "1 234 567", r"1.234567 \times 10^6"]),
    (r"3\times 10^{8}", ["3e8", "300000000", r"3.0 \cdot 10^8"]),
    (r"1.6 \times 10^{-19}", [r"1.6\times10^{-19}", "1.6e-19", r"16\times 10^{-20}"]),
    ("3 1/2", ["3.5", "7/2", r"3\frac{1}{2}", "3½"]),
    (r"\frac{7}{2}", ["3.5", "7/2", "3 1/2", r"\dfrac72", r"{7 \over 2}"]),
    ("-1/3", [r"-\frac13", r"\frac{1}{-3}", r"-0.\overline{3}", "-0.333333"]),
    (r"1.2\overline{3}", [r"\frac{37}{30}"]),
    (r"2\sqrt{3}", [r"\sqrt{12}", "2√3", r"\frac{6}{\sqrt{3}}"]),
    (r"\sqrt[3]{2}", [r"\sqrt[3]2", r"2^{1/3}"]),
    (r"25\pi", ["25π", r"\pi \cdot 25", r"25\pi \text{ cm}^2"]),
    (r"\{1,2,3\}", ["3, 2, 1", r"1, 2, \text{ and } 3"]),
    (r"\pm 3", ["3, -3", "±3", r"x=\pm 3"]),
    ("[0,1)", [r"\left[0, 1\right)", r"x\in[0,1)"]),
    ("(1, -0.5)", [r"\left(1,-\frac12\right)", r"(x,y)=(1,-\frac{1}{2})"]),
    ("x=5", ["5", "x = 5"]),
    ("y = 2x + 1", ["y=1+2x", "2x-y+1=0"]),
    ("3:4", ["3:4", r"\frac{3}{4}", "3 to 4", r"3\text{ to }4"]),
    ("2:45 p.m.", ["2:45", "2:45 PM", r"2:45\text{ p.m.}"]),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", [r"\begin{bmatrix}1 & 2 \\ 3 & 4\end{bmatrix}"]),
    ("204_5", ["204_{5}"]),
    ("≥ 5", [r"\ge 5", r"\geq 5"]),
    (r"\emptyset", [r"\varnothing", "∅"]),
    ("ABD", ["A, B, D", r"\text{A, B, and D}", "ABD"]),
    ("AB", [r"\overline{AB}", "BA"]),
    ("right triangle", [r"\text{right triangle}", "a Right Triangle"]),
    ("Yes", ["yes", "Yes, it is"]),
]
DIFFERENT = [
    ("12", ["13 cm", "12000", "12x", "12 or more", "12 pi", r"12 \sin x", "12 and 13", "11 apples", "eleven"]),
    ("3x", ["3", "3y"]),
    (r"45^\circ", ["50°", r"54^\circ"]),
    ("28%", ["2.8", "29%", "0.028"]),
    ("50", ["0.5"]),
    (r"\$18.50", ["18", "1850"]),
    ("12", ["1,2"]),
    (r"1.6 \times 10^{-19}", ["0", "1.6", r"1.7\times10^{-19}", r"1.6\times10^{-18}"]),
    ("0.0005", ["0", "0.0006", "0.00051"]),
    ("3 1/2", ["1.5", "31/2", "3"]),
    (r"0.\overline{3}", ["0.3"]),
    ("2:45 p.m.", ["2:45 a.m.", "2:46", "14:45 a.m."]),
    ("204_5", ["204_6", "205_5"]),
    ("≥ 5", ["5", r"\le 5"]),
    ("3:4", ["4:3", "3"]),
    (r"\pm 3", ["3"]),
    ("ABD", ["AB", "A, B, C, D", "B, C"]),
    ("right triangle", ["left triangle", "triangle"]),
    ("dog", ["god"]),
    ("Yes", ["No", "no, yes"]),
]


def graded(gold: str, answer: str) -> bool:
    (result,) = AccuracyReward(time_limit=30.0)(Group(gold, (Rollout(rf"\boxed{{{answer}}}"),)))
    return result.value == 1.0


@pytest.mark.parametrize(("gold", "answers"), SAME)
def test_the_same_answer_in_other_words_is_right(gold: str, answers: list[str]) -> None:
    assert [answer for answer in answers if not graded(gold, answer)] == []


@pytest.mark.parametrize(("gold", "answers"), DIFFERENT)
def test_another_answer_is_wrong_however_alike(gold: str, answers: list[str]) -> None:
    assert [answer for answer in answers if graded(gold, answer)] == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<answer>The answer is 42</answer>", True),
        ("<answer>There are 42 cubes.</answer>", True),
        ("<answer>not 42 but 43</answer>", False),
        ("The answer is −42.", False),
        ("The answer is 40+2=42", True),
        ("The answer is 42+2=44", False),
    ],
)
def test_an_answer_in_a_sentence_is_read(text: str, right: bool) -> None:
    (result,) = AccuracyReward(time_limit=30.0)(Group("42", (Rollout(text),)))
    assert result.value == float(right)
