"""Plans, boxes and formats in the spellings that models use, right and wrong ones."""

from typing import Any

import pytest

from covt_rewards import Group, Rollout, grade
from covt_rewards.rewards.format import FormatReward

MAP = {"rows": ["SFF", "FHF", "FFG"]}
PLANS = [
    "RRDD",
    "R,R,D,D",
    "r,r,d,d",
    "R R D D",
    "R-R-D-D",
    "R->R->D->D",
    "Right -> Right -> Down -> Down",
    "→→↓↓",
    "1) R 2) R 3) D 4) D",
    "1. R\n2. R\n3. D\n4. D",
    "Step 1: Right\nStep 2: Right\nStep 3: Down\nStep 4: Down",
    "go 2 steps right and 2 steps down",
    "right two times, down two times",
    "right, right, down, then down",
    "['Right', 'Right', 'Down', 'Down']",
    "move right 2 times then down 2 times",
    "2 right, 2 down",
    "2 steps right, then 2 steps down",
    "Move right, move right, move down, move down",
    "First go right, then right, then down, finally down.",
    "right x2, down x2",
    "Right; Right; Down; Down",
    "R, R, D and D.",
    "rightwards twice and downwards twice",
    "R×2, D×2",
    "down, down, right, right",
    "Go down twice, then go right twice.",
    "{R,R,D,D}",
    '"R,R,D,D"',
    "R+R+D+D",
    "R=>R=>D=>D",
    "R/R/D/D",
    "`R,R,D,D`",
    "**R,R,D,D**",
    "\\boxed{\\text{Right, Right, Down, Down}}",
    "R,R,D,D,",
    "move east twice, then south twice",
    "(R, R, D, D)",
    "Right Right Down Down",
    "R. R. D. D.",
    "1. Right 2. Right 3. Down 4. Down",
    "two steps right, two steps down",
    "<R><R><D><D>",
]
WRONG_PLANS = [
    "R,D,D,R",
    "D,R",
    "L,L",
    "R,R",
    "",
    "don't go right",
    "not R,R,D,D",
    "R,R,D,D or D,D,R,R",
    "Run",
    "no path",
    "up",
    "R,R,D,X",
    "R,R,D,D is wrong",
    "0",
    "R R D",
    "right twice, down once",
    "avoid right right down down",
    "right then down then right then down",
    "1. Down 2. Right",
    "2R 1D",
    "S",
    "goal",
    "right right down down maybe",
]
GOLD_BOXES = [
    "[10, 20, 110, 220]",
    '{"bbox_2d": [10, 20, 110, 220]}',
    '[{"bbox_2d": [10, 20, 110, 220]}]',
    "[[10, 20, 110, 220]]",
    '{"bbox": [10, 20, 110, 220]}',
    "[10.2, 20.1, 109.7, 219.9]",
]
BOXES = [
    "[12, 21, 109, 219]",
    "[[12, 21, 109, 219]]",
    '{"bbox_2d": [12, 21, 109, 219]}',
    '[{"bbox_2d": [12, 21, 109, 219]}]',
    '```json\n[{"bbox_2d": [12, 21, 109, 219]}]\n```',
    "```\n[12, 21, 109, 219]\n```",
    '{"bbox": [12, 21, 109, 219]}',
    '[{"bbox_2d": [12, 21, 109, 219], "label": "dog"}]',
    "(12, 21, 109, 219)",
    "12, 21, 109, 219",
    "The box is [12, 21, 109, 219]",
    "[12.0, 21.0, 109.0, 219.0]",
    '{"bbox_2d": [12, 21, 109, 219], "point_2d": [60, 100]}',
    "\\boxed{[12, 21, 109, 219]}",
]
WRONG_BOXES = [
    "[300,300,400,400]",
    "[12, 21, 109]",
    "[NaN, 21, 109, 219]",
    "",
    "no",
    "[]",
    "{}",
    "[[300,300,400,400]]",
    "[12, 21, 109, 219, 5]",
    '["a"]',
    "12",
    "null",
    "[12, 21, 109, null]",
    "[true,false,true,false]",
    '{"bbox_2d": [300,300,400,400]}',
]
FORMATS = [
    ("<think>a</think><answer>9</answer>", "think"),
    ("<think>a <answer>8</answer></think><answer>9</answer>", "think"),
    ("<think>use <answer> tags</think><answer>9</answer>", "think"),
    ("<think>\\boxed{1} \\boxed{2}</think>\\boxed{9}", "think"),
    ("<think>use \\boxed{</think>\\boxed{9}", "think"),
    ("<think>a</think>\n\n\\boxed{9}", "think"),
    ("<think>a</think>The answer is \\boxed{9}.", "any"),
    ("<think>say <answer>8</answer></think><answer>9</answer>", "any"),
    ("\\boxed{9}", "boxed"),
    ("<think>a \\boxed{3}</think>\\boxed{9}", "boxed"),
    ("<answer>9</answer>", "tag"),
    ("<answer>x \\boxed{9}</answer>", "tag"),
    ("<think>the tags <answer></answer> are needed</think><answer>9</answer>", "tag"),
    ("<|im_start|><think>a</think><answer>9</answer>", "think"),
]
WRONG_FORMATS = [
    ("<think>a</think>", "think"),
    ("<answer>9</answer>", "think"),
    ("<think>a<answer>9</answer>", "think"),
    ("<answer>9</answer><think>a</think>", "think"),
    ("<think>a</think><answer></answer>", "think"),
    ("<think>a</think><answer>9</answer><answer>8</answer>", "think"),
    ("<think>a</think><think>b</think><answer>9</answer>", "think"),
    ("<think>\\boxed{9}</think>", "think"),
    ("<think><answer>9</answer></think>", "any"),
    ("<think>\\boxed{9}</think>", "any"),
    ("a</think><answer>9</answer>", "think"),
    ("\\boxed{9}", "tag"),
    ("<answer>9</answer>", "boxed"),
    ("9", "any"),
    ("<answer>9", "any"),
    ("\\boxed{9", "boxed"),
    ("<think>a</think>9", "think"),
    ("<answer> </answer>", "tag"),
    ("\\boxed{}", "boxed"),
    ("<think>a</think>\\boxed{9} \\boxed{8}", "think"),
]


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_is_read_in_words_letters_and_lists(plan: str) -> None:
    assert grade(plan if "\\" in plan else rf"\boxed{{{plan}}}", "R,R,D,D", "vsp", MAP) == 1.0


@pytest.mark.parametrize("plan", WRONG_PLANS)
def test_another_plan_or_prose_is_wrong(plan: str) -> None:
    assert grade(rf"\boxed{{{plan}}}", "R,R,D,D", "vsp", MAP) == 0.0


@pytest.mark.parametrize("gold", GOLD_BOXES)
def test_a_box_is_read_from_any_json(gold: str) -> None:
    assert [box for box in BOXES if grade(f"<answer>{box}</answer>", gold, "boxes") != 1.0] == []
    assert [box for box in WRONG_BOXES if grade(f"<answer>{box}</answer>", gold, "boxes") != 0.0] == []


def test_boxes_without_points_are_scored_over_two_measures() -> None:
    gold = '[{"bbox_2d": [0, 0, 50, 50]}, {"bbox_2d": [100, 100, 150, 150]}]'
    assert grade('<answer>[{"bbox_2d": [0, 0, 50, 50]}]</answer>', gold, "boxes") == 0.5
    assert grade("<answer>[[0, 0, 50, 50], [100, 100, 150, 150]]</answer>", gold, "boxes") == 1.0
    assert grade("<answer>[61, 121]</answer>", '[{"point_2d": [60, 120]}]', "boxes") == 1.0
    assert grade("<answer>[99, 121]</answer>", '[{"point_2d": [60, 120]}]', "boxes") == 0.0


def is_well_formed(text: str, style: Any) -> bool:
    reward = FormatReward(think=True) if style == "think" else FormatReward(answer=style)
    return reward(Group("9", (Rollout(text),)))[0].value == 1.0


@pytest.mark.parametrize(("text", "style"), FORMATS)
def test_thinking_may_mention_the_markers(text: str, style: str) -> None:
    assert is_well_formed(text, style)


@pytest.mark.parametrize(("text", "style"), WRONG_FORMATS)
def test_a_format_needs_one_answer_behind_the_thinking(text: str, style: str) -> None:
    assert not is_well_formed(text, style)
