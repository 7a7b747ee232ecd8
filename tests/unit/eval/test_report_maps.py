"""Answers drawn on maps, hop counts, and completions split into text and latent spans."""

import pytest

from covt_eval.report.charts.maps import Drawing, Grid, draw_answer, draw_truth, grid_of, hops, true_path
from covt_eval.report.sections.spans import split_text
from covt_rewards import AccuracyReward, Group, Rollout

GRID = Grid(size=3, width=84, height=84)
ICE = {"rows": ["SFF", "FHF", "FFG"]}
ARROWS = {
    "size": 3,
    "arrows": ["RDL", "ULD", "RUL"],
    "start": [0, 0],
    "hops": 2,
    "path": [[0, 0], [0, 1], [1, 1], [1, 1]],
}


def test_a_cell_answer_outlines_the_cell_it_names() -> None:
    drawing = draw_answer("C2", ARROWS, GRID)
    assert drawing.cell == (56.0, 28.0, 28.0, 28.0)  # third column, second row
    assert draw_answer("c2", ARROWS, GRID) == drawing


@pytest.mark.parametrize("answer", ["D1", "A4", "B0", "up", "B22222"])
def test_an_answer_outside_the_map_is_said_in_words_not_drawn(answer: str) -> None:
    drawing = draw_answer(answer, ARROWS, GRID)
    assert drawing == Drawing(remark=drawing.remark)
    assert answer in drawing.remark


def test_no_answer_is_said_in_words() -> None:
    assert "no answer" in draw_answer(None, ARROWS, GRID).remark


def test_a_plan_is_walked_to_the_goal_and_stops_there() -> None:
    drawing = draw_answer("R,R,D,D,L", ICE, GRID)
    assert drawing.path == "14.0,14.0 42.0,14.0 70.0,14.0 70.0,42.0 70.0,70.0"
    assert (drawing.start, drawing.end, drawing.cross) == ((14.0, 14.0), (70.0, 70.0), None)


def test_a_plan_into_a_hole_is_crossed_out_at_the_hole() -> None:
    drawing = draw_answer("R,D,R", ICE, GRID)
    assert drawing.path.endswith("42.0,42.0")
    assert (drawing.cross, drawing.end) == ((42.0, 42.0), None)


def test_a_move_off_the_map_stays_in_place() -> None:
    drawing = draw_answer("U,R,R,D,D", ICE, GRID)
    assert (drawing.end, drawing.cross) == ((70.0, 70.0), None)


def test_a_plan_that_misses_the_goal_is_crossed_out_where_it_ends() -> None:
    drawing = draw_answer("R", ICE, GRID)
    assert (drawing.cross, drawing.end) == ((42.0, 14.0), None)


@pytest.mark.parametrize("rows", [["SFF", "FHF", "FFG"], ["SG", "FF"], ["FSG", "FFF", "FFF"], ["SF", "FG"]])
@pytest.mark.parametrize("plan", ["L,R,D", "R", "R,D", "U,R,D", "D,D,R,R", "R,L", "RRDD", "left down", "D,R,U"])
def test_a_drawn_plan_fails_exactly_where_the_grader_fails_it(rows: list[str], plan: str) -> None:
    group = Group(answer="R", rollouts=(Rollout(f"\\boxed{{{plan}}}"),), id="r", grader="vsp", metadata={"rows": rows})
    drawing = draw_answer(plan, {"rows": rows}, Grid(len(rows), 84, 84))
    assert (drawing.cross is None) == (AccuracyReward().grade(group)[0].score == 1)


def test_text_that_is_no_plan_is_said_in_words() -> None:
    assert "not a plan" in draw_answer("around the hole", ICE, GRID).remark


def test_the_true_path_has_no_repeats_after_arrival() -> None:
    assert true_path(ARROWS) == [(0, 0), (0, 1), (1, 1)]
    assert true_path({"start": [2, 2], "path": [[2, 1], [1, 1]]}) == [(2, 2), (2, 1), (1, 1)]
    assert draw_truth(ARROWS, GRID).cell == (28.0, 28.0, 28.0, 28.0)


@pytest.mark.parametrize(
    ("meta", "gold", "expected"),
    [(ARROWS, "B2", 2), ({"path": [[0, 0], [0, 1]]}, "B1", 1), (ICE, "R,R,D,D", 4), ({}, "42", None)],
)
def test_hops_come_from_the_metadata_the_path_or_the_plan(meta: dict, gold: str, expected: int | None) -> None:
    assert hops(meta, gold) == expected


@pytest.mark.parametrize("meta", [{}, {"rows": ["SF", "G"]}, {"rows": "SFG"}, {"size": "4"}, {"path": 3}])
def test_rows_that_are_no_maps_have_no_grid(meta: dict) -> None:
    assert grid_of(meta, 84, 84) is None


def test_latent_spans_become_pieces_and_markers_disappear() -> None:
    text = "first <|latent_start|><|latent_pad|><|latent_pad|><|latent_end|> then B3<|im_end|>"
    first, span, last = split_text(text)
    assert (first.text, span.latents, span.closed, last.text) == ("first ", 2, True, " then B3")


def test_dropped_latents_leave_an_empty_span_and_a_cut_one_stays_open() -> None:
    assert [piece.latents for piece in split_text("<|latent_start|><|latent_end|>B3")] == [0, None]
    cut = split_text("x<|latent_start|><|latent_pad|>")[1]
    assert (cut.latents, cut.closed) == (1, False)
