"""Helper images that are sets of a breadth-first search, against a plain relaxation of distances and a walked plan."""

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from covt_data.data_errors import DataError
from covt_data.ingest.prepare import prepare
from covt_data.sources.vsp import VspOptions, splits
from covt_data.tasks.vsp_maps import VspConditions, generate_train, shortest_plan
from covt_data.tasks.vsp_render import SNOW
from covt_data.tasks.vsp_rows import StepStyle, make_row
from covt_data.tasks.vsp_sets import COLORS, LARGEST, latent_sets, path_sets, wave_sets

OFFSETS = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}


@st.composite
def maps(draw, sizes=(3, 4, 5, 6)):
    size = draw(st.sampled_from(sizes))
    cells = draw(st.lists(st.sampled_from("FFFH"), min_size=size * size, max_size=size * size))
    start, goal = draw(st.permutations(range(size * size)))[:2]
    cells[start], cells[goal] = "S", "G"
    rows = ["".join(cells[i : i + size]) for i in range(0, size * size, size)]
    assume(shortest_plan(rows) is not None)
    return rows


def relaxed_distances(rows):
    """Bellman–Ford over the safe cells: [n, n] moves to the goal, inf where it can't be reached."""
    n = len(rows)
    distances = np.full((n, n), np.inf)
    for r, c in np.ndindex(n, n):
        if rows[r][c] == "G":
            distances[r, c] = 0
    for _ in range(n * n):
        padded = np.pad(distances, 1, constant_values=np.inf)
        near = np.min([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        distances = np.minimum(distances, near + 1)
        distances[[[letter == "H" for letter in row] for row in rows]] = np.inf
    return distances


@settings(deadline=None)
@given(maps(), st.integers(2, 12))
def test_the_wave_is_the_holes_then_the_cells_at_each_distance(rows, count):
    holes, *waves = wave_sets(rows, count)
    assert {cell for cell, _ in holes.marks} == {
        (r, c) for r, row in enumerate(rows) for c in range(len(row)) if row[c] == "H"
    }
    distances = relaxed_distances(rows)
    assert len(waves) == count - 1
    for moves, wave in enumerate(waves):
        assert [cell for cell, _ in wave.marks] == [tuple(cell) for cell in np.argwhere(distances == moves).tolist()]
        assert all(kind == "wave" for _, kind in wave.marks)


@settings(deadline=None)
@given(maps(), st.integers(2, 12))
def test_the_path_descends_through_the_waves_and_stays_on_the_goal(rows, count):
    start, *moved = path_sets(rows, count)
    distances, plan = relaxed_distances(rows), shortest_plan(rows)
    assert len(moved) == count - 1
    (((r, c), kind),) = start.marks
    assert rows[r][c] == "S" and kind == "agent"
    for number, after in enumerate(moved):
        marks = {kind: cell for cell, kind in after.marks}
        if number >= len(plan):
            assert marks == {"agent": (r, c)} and rows[r][c] == "G"
            continue
        assert marks["before"] == (r, c)
        # Of the neighbors one move nearer to the goal, the first in the order U, D, L, R: a local rule.
        nearer = [
            (r + dr, c + dc)
            for dr, dc in OFFSETS.values()
            if (r + dr, c + dc) in np.ndindex(distances.shape) and distances[r + dr, c + dc] == distances[r, c] - 1
        ]
        r, c = marks["agent"]
        assert (r, c) == nearer[0]


def marked_cells(image):
    """Read a thumbnail as a person would: the color of each 4×4 square on the snow, by cell."""
    with Image.open(io.BytesIO(image.bytes)) as opened:
        pixels = np.asarray(opened.convert("RGB")).copy()
    assert pixels.shape == (28, 28, 3)
    found = {}
    for r, c in np.ndindex(LARGEST, LARGEST):
        square = pixels[2 + 4 * r : 6 + 4 * r, 2 + 4 * c : 6 + 4 * c]
        (color,) = {tuple(pixel) for pixel in square.reshape(-1, 3).tolist()}
        if color != SNOW:
            found[r, c] = next(kind for kind, known in COLORS.items() if known == color)
        square[:] = SNOW
    assert (pixels == SNOW).all(), "nothing is drawn outside the cells"
    return found


@pytest.mark.parametrize("latents", ["wavefront", "wave", "path"])
def test_a_thumbnail_shows_its_set_and_nothing_else(latents):
    style = StepStyle(latents)
    for index, rows in enumerate(generate_train("0", 20, VspConditions((3, 4, 5, 6), 0.3, 1, 0.5, 7), set())):
        row = make_row(rows, index, "train", True, style)
        segments = latent_sets(rows, latents, 8)
        steps = [step for step in row.steps if step.type == "latent"]
        assert len(steps) == len(segments) == len(row.meta["focus"]) == (2 if latents == "wavefront" else 1)
        for step, sets in zip(steps, segments, strict=True):
            assert [marked_cells(image) for image in step.images] == [dict(one.marks) for one in sets]
        assert row.meta["focus"] == [[[0, 0, 28, 28]] * 8] * len(segments)
        assert row.meta["names"] == [[one.name for one in sets] for sets in segments]
        assert row.steps[-1].text == f"\\boxed{{{row.answer}}}"
        assert (row.meta["latents"], row.meta["latent_size"]) == (latents, 8)


def test_the_question_comes_before_the_picture():
    row = make_row(("SFF", "FFF", "FFG"), 0, "train", True)
    assert row.question.endswith("<image>")


LONG = ("SHFFF", "FHFHF", "FHFHF", "FHFHF", "FFFHG")
"""16 moves."""


def test_a_plan_too_long_for_the_latents_has_no_steps_and_is_no_training_map():
    assert make_row(LONG, 0, "test", True).steps == []
    assert len(make_row(LONG, 0, "test", True, StepStyle(size=17)).steps) == 3
    options = VspOptions(n_train=60, n_prompts=0, n_test=0, n_validation=0, sizes=(4,), latent_size=4, seed=1)
    plans = [row.meta["plan"] for split in splits(options) for row in split.rows]
    assert max(map(len, plans)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": "3,7"}, "latents=wavefront holds maps up to 6×6, not 7×7"),
        ({"test_sizes": 8, "latents": "path"}, "latents=path holds maps up to 6×6, not 8×8"),
        ({"sizes": ""}, "give at least one size"),
        ({"latents": "waves"}, "option latents = 'waves'"),
        ({"latent_size": 1}, "option latent_size = 1"),
    ],
)
def test_what_the_thumbnails_cannot_hold_is_refused_by_name(tmp_path, options, message):
    with pytest.raises(DataError) as caught:
        prepare("vsp", tmp_path / "set", options=options)
    assert message in str(caught.value) and caught.value.remedy
    assert not (tmp_path / "set").exists()


def test_larger_maps_can_be_drawn_without_sets(tmp_path):
    with pytest.raises(DataError, match="a 7×7 map does not fit a thumbnail"):
        latent_sets(["SG" + "F" * 5, *["F" * 7] * 6], "wave", 8)
    options = VspOptions(n_train=1, n_prompts=0, n_test=0, n_validation=0, sizes=(7,), latents="trail")
    (row,) = [row for split in splits(options) for row in split.rows]
    assert [step.type for step in row.steps] == ["latent", "text"]
