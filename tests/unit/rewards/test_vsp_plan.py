"""The rule of a VSP plan against a walker written by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covt_rewards import GoldError, RewardError
from covt_rewards.tasks.vsp_plan import VARIANTS, PlanOutcome, check_map, find_cell, parse_plan, walk_plan


@pytest.mark.parametrize(
    ("answer", "moves"),
    [
        ("R,U,D", "RUD"),
        ("RUD", "RUD"),
        ("right, Up -> DOWN", "RUD"),
        ("[R, U, D]", "RUD"),
        ("→↑↓", "RUD"),
        (r"\text{R, U, D}", "RUD"),
        (r"R \rightarrow", "RR"),
        ("", ""),
        ("R,X", None),
        ("Run", None),
        ("1,2", None),
    ],
)
def test_plans_are_read(answer: str, moves: str | None) -> None:
    plan = parse_plan(answer)
    assert (None if plan is None else "".join(plan)) == moves


def plain_walk(rows, moves, variant):
    """Gymnasium's rule on one flat list of cells: a wall around the map stops the walker, holes end the episode."""
    width = len(rows[0]) + 2
    cells = "#" * width + "".join(f"#{row}#" for row in rows) + "#" * width
    at = cells.index("S")
    for move in moves:
        if cells[at] == "G" and variant == "stop_at_goal":
            return "goal"
        target = at + {"L": -1, "R": 1, "U": -width, "D": width}[move]
        at = at if cells[target] == "#" else target
        if cells[at] == "H":
            return "hole"
    return "goal" if cells[at] == "G" else "missed"


@st.composite
def maps(draw):
    height, width = draw(st.integers(1, 4)), draw(st.integers(2, 4))
    cells = draw(st.lists(st.sampled_from("FFFH"), min_size=height * width, max_size=height * width))
    start, goal = draw(st.permutations(range(height * width)))[:2]
    cells[start], cells[goal] = "S", "G"
    return ["".join(cells[i : i + width]) for i in range(0, height * width, width)]


@settings(deadline=None)
@given(maps(), st.lists(st.sampled_from("LRUD"), max_size=12), st.sampled_from(VARIANTS))
def test_walks_agree_with_a_plain_environment(rows, moves, variant):
    walk = walk_plan(rows, moves, variant)
    expected = {"goal": PlanOutcome.REACHED_GOAL, "hole": PlanOutcome.FELL_INTO_HOLE, "missed": PlanOutcome.MISSED_GOAL}
    assert walk.outcome is expected[plain_walk(rows, moves, variant)]
    assert walk.success == (walk.outcome == "reached the goal")


@settings(deadline=None)
@given(maps(), st.lists(st.sampled_from("LRUD"), max_size=12), st.sampled_from(VARIANTS))
def test_cells_follow_the_moves_until_the_walk_ends(rows, moves, variant):
    walk = walk_plan(rows, moves, variant)
    assert walk.cells[0] == find_cell(rows, "S")
    assert len(walk.cells) - 1 <= len(moves)
    for index, (before, after) in enumerate(zip(walk.cells, walk.cells[1:], strict=False)):
        distance = abs(before[0] - after[0]) + abs(before[1] - after[1])
        assert distance == (0 if index in walk.blocked_moves else 1)
        assert 0 <= after[0] < len(rows)
        assert 0 <= after[1] < len(rows[0])
    if walk.failed_move is not None:
        assert rows[walk.end[0]][walk.end[1]] == "H"
        assert walk.failed_move == len(walk.cells) - 2


@pytest.mark.parametrize(
    ("plan", "variant", "cells", "outcome", "blocked"),
    [
        ("LRD", "stop_at_goal", [(0, 0), (0, 0), (0, 1), (1, 1)], "reached the goal", (0,)),
        ("RDR", "stop_at_goal", [(0, 0), (0, 1), (1, 1)], "reached the goal", ()),
        ("RDR", "end_on_goal", [(0, 0), (0, 1), (1, 1), (1, 2)], "did not end on the goal", ()),
        ("RDRL", "end_on_goal", [(0, 0), (0, 1), (1, 1), (1, 2), (1, 1)], "reached the goal", ()),
        ("RRD", "stop_at_goal", [(0, 0), (0, 1), (0, 2)], "fell into a hole", ()),
        ("", "stop_at_goal", [(0, 0)], "did not end on the goal", ()),
    ],
)
def test_walks_show_where_and_why_they_end(plan, variant, cells, outcome, blocked):
    walk = walk_plan(["SFH", "FGF"], list(plan), variant)
    assert (list(walk.cells), walk.outcome, walk.blocked_moves) == (cells, outcome, blocked)


def test_an_unknown_variant_move_or_start_is_refused():
    with pytest.raises(RewardError, match="stop_at_goal"):
        walk_plan(["SG"], ["R"], "sometimes")
    with pytest.raises(RewardError, match="move 1 of the plan is 'X'"):
        walk_plan(["SFG"], ["R", "X"])
    with pytest.raises(RewardError, match="has no S"):
        walk_plan(["FG"], ["R"])


@pytest.mark.parametrize("rows", [None, [], ["SG", "F"], ["SF"], ["SGX"], "SG", ["SG", 1], {"S": "G"}])
def test_what_is_not_a_map_is_refused_by_its_place(rows):
    with pytest.raises(GoldError, match=r"metadata\.rows"):
        check_map(rows)


def test_a_map_is_returned_as_a_list_of_rows():
    assert check_map(("SFH", "FFG")) == ["SFH", "FFG"]
