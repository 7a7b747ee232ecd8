"""`accuracy` without algebra: text, choice, vsp, boxes."""

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covt_rewards import GoldError, Group, RewardError, Rollout
from covt_rewards.accuracy import AccuracyReward
from covt_rewards.accuracy.assignment import assign
from covt_rewards.accuracy.gold_kinds import choose_grader
from covt_rewards.rewards.vision_reasoner import VisionReasonerReward

ANIMALS = ("Grasshopper", "Snake", "Mouse", "Field mouse")
MIRAGE = AccuracyReward(vsp_rule="end_on_goal")
MAP = ("SFH", "FGF", "FFF")


def score(text: str, answer: str = "", accuracy: AccuracyReward | None = None, **group: object) -> float:
    result = (accuracy or AccuracyReward())(Group(answer, (Rollout(text),), **group))[0]  # type: ignore[arg-type]
    assert result.parts["accuracy"] == result.value
    assert result.value == 1.0 or result.reason
    return result.value


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("B3", "<answer>B3</answer>", True),
        ("B3", r"\boxed{\text{b3}}.", True),
        ("B3", "<answer> B3. </answer>", True),
        ("B3", "<answer>B4</answer>", False),
        ("New  York", "<answer>new york</answer>", True),
        ("5", "<answer>-5</answer>", False),
        ("ﬁsh", "<answer>fish</answer>", True),
        ("B3", "no idea\nreally", False),
        ("B3", "", False),
    ],
)
def test_text(gold: str, text: str, right: bool) -> None:
    assert score(text, gold, grader="text") == float(right)


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("B", r"\boxed{B}", True),
        ("Snake", r"\boxed{B}", True),
        ("B", r"\boxed{\text{(B)}}", True),
        ("B", "<answer>b.</answer>", True),
        ("B", "<answer>snake</answer>", True),
        ("B", "<answer>B. Snake</answer>", True),
        ("B", "<answer>B. Mouse</answer>", False),
        ("B", "The answer is (B), because snakes eat.", True),
        ("B", "<answer>option B</answer>", True),
        ("B", "<answer>C</answer>", False),
        ("B", "<answer>Z</answer>", False),
        ("B", "<answer>the snake of course</answer>", True),
        ("D", "<answer>a field mouse</answer>", True),
        ("C", "<answer>a field mouse</answer>", False),
        ("B", "<answer>snake or mouse</answer>", False),
        ("B", "", False),
    ],
)
def test_choice(gold: str, text: str, right: bool) -> None:
    assert score(text, gold, options=ANIMALS) == float(right)


def test_options_that_are_letters_mean_what_they_say() -> None:
    options = ("(c)", "(d)", "(a)", "(b)")
    assert score("The answer is (b).", "(b)", options=options) == 1.0
    assert score(r"\boxed{d}", "(d)", options=options) == 0.0  # the letter d is option 4, which reads (b)
    assert score(r"\boxed{(d)}", "(d)", options=options) == 1.0


def test_options_in_latex_are_compared_without_their_spelling() -> None:
    options = (r"$\frac{1}{2}$", r"$45^{\circ}$", r"$16 \mathrm{~cm}^{2}$")
    assert score(r"\boxed{\dfrac12}", "A", options=options) == 1.0
    assert score(r"\boxed{45^\circ}", "B", options=options) == 1.0
    assert score(r"\boxed{16 \text{ cm}^2}", "C", options=options) == 1.0
    assert score(r"\boxed{\dfrac13}", "A", options=options) == 0.0


@given(st.integers(0, 3), st.integers(0, 3), st.permutations(ANIMALS), st.sampled_from(["{}", "({})", "{}.", "{})"]))
def test_letter_and_text_of_an_option_are_the_same_answer(gold: int, said: int, options: list[str], form: str) -> None:
    letter = form.format("ABCD"[said])
    for text in (letter, options[said]):
        for answer in ("ABCD"[gold], options[gold]):
            assert score(f"<answer>{text}</answer>", answer, options=tuple(options)) == float(gold == said)


@pytest.mark.parametrize(
    ("plan", "stops", "ends"),
    [
        ("D,R", True, True),
        ("D,R,R", True, False),
        ("D,R,R,L", True, True),
        ("R,R", False, False),
        ("R,R,D,L", False, False),
        ("L,U,D,R", True, True),
        ("D", False, False),
        ("", False, False),
        ("D,R,U,R", True, False),
    ],
)
def test_both_judges_of_a_plan(plan: str, stops: bool, ends: bool) -> None:
    metadata = {"rows": list(MAP)}
    assert score(rf"\boxed{{{plan}}}", metadata=metadata) == float(stops)
    assert score(rf"\boxed{{{plan}}}", metadata=metadata, accuracy=MIRAGE) == float(ends)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("We go around the hole.\n**Action plan:** D,R", True),
        ("Path: R,R\nThat is a hole.\nNew path: D, R", True),
        ("Plan: D,R\nSo the path is safe.", True),
        ("First down,\nthen right:\n```\nD R\n```", True),
        ("Action plan: D,R", True),
        ("Path: R,R\nThat is all.", False),
        ("The path: it is long.\nI cannot say.", False),
        ("Right\nis wrong", False),
    ],
)
def test_a_plan_may_stand_after_a_label_or_in_the_last_line(text: str, right: bool) -> None:
    metadata = {"rows": list(MAP)}
    assert score(text, metadata=metadata) == float(right)
    assert score(text, metadata=metadata, accuracy=AccuracyReward(lenient=False)) == 0.0


@pytest.mark.parametrize("rows", [None, [], ["SG", "F"], ["SF"], ["SGX"], "SG", ["SG", 1]])
def test_a_map_that_cannot_be_read_is_an_error_of_the_data(rows: object) -> None:
    with pytest.raises(GoldError):
        score(r"\boxed{R}", grader="vsp", metadata={"rows": rows})


@pytest.mark.parametrize(
    ("grader", "answer"), [("text", " . "), ("choice", "Z"), ("boxes", "[]"), ("boxes", "nothing")]
)
def test_a_gold_answer_that_cannot_be_read_is_an_error(grader: str, answer: str) -> None:
    with pytest.raises(GoldError) as error:
        AccuracyReward().check_gold(Group(answer, (), grader=grader, options=("a cat", "a dog")))
    assert error.value.remedy


def test_an_unknown_grader_lists_those_there_are() -> None:
    with pytest.raises(RewardError, match="boxes, choice, comt, math, text, vsp"):
        score("x", "y", grader="maths")


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Group("B", ()), "choice"),
        (Group("cat", (), options=("cat", "dog")), "choice"),
        (Group("R,D", (), metadata={"rows": ["SG"]}), "vsp"),
        (Group("R", (), metadata={"rows": ["SG"]}), "vsp"),
        (Group('[{"bbox_2d": [0,0,1,1], "point_2d": [0,0]}]', ()), "boxes"),
        (Group("12", ()), "math"),
        (Group("12", (), grader="text"), "text"),
    ],
)
def test_the_grader_is_chosen_by_the_group(group: Group, expected: str) -> None:
    assert choose_grader(group.answer, group.options, group.metadata, group.grader) == expected


def objects(*boxes: tuple[int, int, int, int]) -> str:
    return json.dumps([{"bbox_2d": box, "point_2d": [(box[0] + box[2]) // 2, (box[1] + box[3]) // 2]} for box in boxes])


def test_boxes_are_matched_one_to_one() -> None:
    a, b = (0, 0, 100, 100), (300, 300, 500, 500)
    assert score(f"<answer>{objects(b, a)}</answer>", objects(a, b)) == 1.0
    assert score(f"<answer>{objects(a)}</answer>", objects(a, b)) == 0.5
    assert score(f"<answer>{objects(a, a, a, a)}</answer>", objects(a, b)) == 0.25
    assert score("<answer>[]</answer>", objects(a)) == 0.0
    assert score("<answer>[1, 2]</answer>", objects(a)) == 0.0
    assert score("<answer>[[[[</answer>", objects(a)) == 0.0


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity", '"1"', "null", "9" * 5000, "[1]"])
def test_numbers_that_are_none_score_zero(number: str) -> None:
    text = f'<answer>[{{"bbox_2d": [0, 0, {number}, 9], "point_2d": [1, 1]}}]</answer>'
    group = Group(objects((0, 0, 9, 9)), (Rollout(text),))
    assert AccuracyReward()(group)[0].value == 0.0
    assert VisionReasonerReward()(group)[0].parts["accuracy"] == 0.0


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**32))
def test_the_assignment_is_the_cheapest_of_all(rows: int, columns: int, seed: int) -> None:
    """Oracle: every assignment, tried."""
    rng = random.Random(seed)
    cost = [[float(rng.choice([0, 1, 2, 3, rng.random() * 9])) for _ in range(columns)] for _ in range(rows)]
    pairs = assign(cost)
    if not rows or not columns:
        assert pairs == []
        return
    assert len(pairs) == len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(rows, columns)
    if rows <= columns:
        best = min(sum(cost[i][j] for i, j in enumerate(p)) for p in itertools.permutations(range(columns), rows))
    else:
        best = min(sum(cost[i][j] for j, i in enumerate(p)) for p in itertools.permutations(range(rows), columns))
    assert sum(cost[i][j] for i, j in pairs) == pytest.approx(best)


def test_a_pair_of_objects_earns_a_point_for_each_measure() -> None:
    """Hand-made: box equal; point far, or near but outside its own box; box shifted by 8 and by 12 pixels."""

    def points(box: list[int], point: list[int]) -> float:
        gold = '[{"bbox_2d": [0, 0, 99, 99], "point_2d": [50, 50]}]'
        text = f"<answer>{json.dumps([{'bbox_2d': box, 'point_2d': point}])}</answer>"
        return AccuracyReward(grader="boxes")(Group(gold, (Rollout(text),)))[0].parts["points"]

    assert points([0, 0, 99, 99], [50, 50]) == 3.0
    assert points([0, 0, 99, 99], [50, 80]) == 2.0  # 30 pixels away is too far
    assert points([0, 0, 99, 99], [50, 79]) == 3.0
    assert points([8, 8, 107, 107], [50, 50]) == 3.0
    assert points([12, 12, 111, 111], [50, 50]) == 2.0
    assert points([60, 60, 159, 159], [59, 59]) == 0.0
    assert points([40, 40, 59, 59], [50, 50]) == 1.0


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("<think>a</think> <answer>[]</answer>", 1.0),
        ("<think>a</think>b<answer>[]</answer>", 0.0),
        ("x<think>a</think><answer>[]</answer>", 0.0),
        ("<think>a</think><answer>[]</answer> ", 0.0),
        ("<think>a</think><answer>", 0.0),
        ("<think>a</answer>", 0.0),
        ('<think>a</think><answer>[{"bbox_2d": [1, 2, 3, 4]}]</answer>', 2.0),
        ('<think>a</think><answer>[{"bbox_2d": [1, 2, 3, 4], "point_2d": [1, 2]}, {}]</answer>', 2.0),
        ("<think>a</think><answer>not json</answer>", 1.0),
    ],
)
def test_the_format_of_vision_reasoner(text: str, form: float) -> None:
    (result,) = VisionReasonerReward()(Group(objects((0, 0, 9, 9)), (Rollout(text),)))
    assert result.parts["format"] == form


def test_vision_reasoner_forgives_one_repeated_sentence() -> None:
    (once, twice) = VisionReasonerReward()(Group(objects((0, 0, 9, 9)), (Rollout("a. a. b"), Rollout("a. a. a"))))
    assert (once.parts["non_repeat"], twice.parts["non_repeat"]) == (1.0, 0.0)


def test_a_gold_answer_may_stand_in_a_box_or_a_tag() -> None:
    assert score(r"\boxed{C.}", r"\boxed{C}") == 1.0
    assert score(r"\boxed{7}", "<answer>7</answer>") == 1.0
    assert score("<answer>b3</answer>", r"\boxed{\text{B3}}", grader="text") == 1.0


def test_a_letter_asked_for_in_a_box_has_to_be_marked() -> None:
    assert score("The answer is C", "C") == 1.0
    assert score("The answer is C", r"\boxed{C}") == 0.0
    assert score("The answer is C", r"\boxed{C}", options=("a", "b", "c")) == 1.0


def test_an_option_may_be_named_by_its_value() -> None:
    options = ("$8 / 3$", "$10 / 3$", r"$\frac{5}{3} \pi + 2$")
    assert score(r"\boxed{\frac{10}{3}}", "B", options=options) == 1.0
    assert score(r"\boxed{\frac{5\pi}{3} + 2}", "C", options=options) == 1.0
    assert score(r"\boxed{\frac{5\pi}{3}}", "C", options=options) == 0.0
