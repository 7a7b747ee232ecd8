"""The vsp task against a plainly written FrozenLake, brute-force symmetries, and the published maps."""

import io
import itertools
import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from covt_data.data_errors import DataError, DataFileError
from covt_data.sources.vsp import VspOptions, splits
from covt_data.tasks.vsp_maps import (
    VspConditions,
    canonical,
    generate_test,
    generate_train,
    manhattan_plan,
    map_hash,
    reserved_hashes,
    shortest_plan,
)
from covt_data.tasks.vsp_published import PublishedMaps
from covt_data.tasks.vsp_render import TRAIL_COLOR
from covt_data.tasks.vsp_rows import StepStyle, make_row, moves_shown
from covt_rewards.tasks.vsp_plan import walk_plan

MOVES = "UDLR"
ANY_MAP = VspConditions((3,), 0.3, 1, None)


class FrozenLake:
    """An environment in the manner of gymnasium's, but leaving the map ends the episode."""

    def __init__(self, rows):
        self.rows = rows
        self.n = len(rows)
        self.at = next((r, c) for r in range(self.n) for c in range(self.n) if rows[r][c] == "S")
        self.done = False

    def step(self, action):
        r, c = self.at
        if action == "U":
            r -= 1
        elif action == "D":
            r += 1
        elif action == "L":
            c -= 1
        elif action == "R":
            c += 1
        if r < 0 or c < 0 or r >= self.n or c >= self.n:
            self.done = True
            return 0
        self.at = (r, c)
        self.done = self.rows[r][c] in "HG"
        return int(self.rows[r][c] == "G")


def gymnasium_judge(rows, moves):
    lake, reward = FrozenLake(rows), 0
    for move in moves:
        reward = lake.step(move)
        if lake.done:
            break
    return reward == 1


def ends_on_goal_judge(rows, moves):
    lake, reward = FrozenLake(rows), 0
    for move in moves:
        reward = lake.step(move)
        if lake.done and reward == 0:
            return False
    return reward == 1


@st.composite
def maps(draw, sizes=(3, 4)):
    size = draw(st.sampled_from(sizes))
    cells = draw(st.lists(st.sampled_from("FFFH"), min_size=size * size, max_size=size * size))
    start, goal = draw(st.permutations(range(size * size)))[:2]
    cells[start], cells[goal] = "S", "G"
    return ["".join(cells[i : i + size]) for i in range(0, size * size, size)]


@settings(deadline=None)
@given(maps(sizes=(3,)))
def test_the_plan_found_is_the_shortest_there_is(rows):
    plan = shortest_plan(rows)
    solutions = (
        moves
        for length in range(9)
        for moves in itertools.product(MOVES, repeat=length)
        if gymnasium_judge(rows, moves)
    )
    if plan is None:
        assert not reachable(rows)
    elif len(plan) <= 5:
        assert plan == list(next(solutions)), "of the shortest, the first in the order U, D, L, R"
    else:
        assert gymnasium_judge(rows, plan)


def reachable(rows):
    """Flood fill without a queue: grow the set of safe cells until nothing changes."""
    n = len(rows)
    inside = {(r, c) for r in range(n) for c in range(n) if rows[r][c] == "S"}
    while True:
        grown = inside | {
            (r + dr, c + dc)
            for r, c in inside
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))
            if 0 <= r + dr < n and 0 <= c + dc < n and rows[r + dr][c + dc] != "H"
        }
        if grown == inside:
            return any(rows[r][c] == "G" for r, c in inside)
        inside = grown


@settings(deadline=None)
@given(maps(sizes=(3, 4, 5)))
def test_manhattan_works_exactly_when_no_hole_lies_on_its_way(rows):
    plan = manhattan_plan(rows)
    assert plan == sorted(plan, key=lambda move: move in "LR"), "rows first, then columns"
    assert walk_plan([row.replace("H", "F") for row in rows], plan).success


def all_forms(rows):
    grid = np.array([list(row) for row in rows])
    forms = [np.rot90(grid, k) for k in range(4)]
    forms += [form.T for form in forms]
    return ["\n".join("".join(row) for row in form) for form in forms]


@settings(deadline=None)
@given(maps(sizes=(3, 4, 5)))
def test_the_canonical_map_is_the_least_of_the_eight(rows):
    assert canonical(rows) == min(all_forms(rows))


@pytest.fixture(scope="module")
def small():
    options = VspOptions(n_train=300, n_prompts=200, n_test=60, n_validation=0, sizes=(3, 4), latents="trail", seed=2)
    return {split.name: list(split.rows) for split in splits(options)}


def test_train_and_test_are_disjoint_up_to_symmetry_and_spare_the_reserved_maps(small):
    test = {form for row in small["test"] for form in all_forms(row.meta["rows"])}
    assert len({canonical(row.meta["rows"]) for row in small["test"]}) == 60
    for row in small["train"] + small["prompts"]:
        assert "\n".join(row.meta["rows"]) not in test
    for rows in small.values():
        assert not {map_hash(row.meta["rows"]) for row in rows} & reserved_hashes()


def test_every_answer_solves_its_map(small):
    for rows in small.values():
        for row in rows:
            assert gymnasium_judge(row.meta["rows"], row.answer.split(","))
            assert {len(line) for line in row.meta["rows"]} == {len(row.meta["rows"])}
            assert row.category == f"level {len(row.meta['rows'])}"
    assert {row.category for row in small["train"]} == {"level 3", "level 4"}


def test_half_of_the_maps_need_a_detour(small):
    fails = [not gymnasium_judge(row.meta["rows"], manhattan_plan(row.meta["rows"])) for row in small["train"]]
    assert 0.4 < np.mean(fails) < 0.6


def test_path_length_and_detours_can_be_asked_for():
    conditions = VspConditions((4,), 0.3, 4, 1.0)
    for rows in generate_train("0", 30, conditions, set()):
        assert len(shortest_plan(rows)) >= 4
        assert not walk_plan(rows, manhattan_plan(rows)).success


def test_impossible_conditions_are_an_error_that_names_them():
    with pytest.raises(DataError, match=r"hole_density=0\.0, min_path=1, detour_share=1\.0"):
        list(generate_train("0", 1, VspConditions((3,), 0.0, 1, 1.0), set()))


def test_test_maps_run_out_with_a_clear_error():
    with pytest.raises(DataError, match="no further 3×3 map") as caught:
        list(generate_test("0", 40, VspConditions((3,), 0.0, 4, None), set()))
    assert "fewer test rows" in caught.value.remedy


def test_helper_images_show_the_path_so_far(small):
    for row in small["train"][:30]:
        meta = row.meta
        latent, text = row.steps
        assert text.text == f"\\boxed{{{row.answer}}}"
        trails = []
        for h, (image, box) in enumerate(zip(latent.images, meta["focus"][0], strict=True), 1):
            r, c = meta["path"][min(h, len(meta["plan"]))]
            assert box == [28 * c, 28 * r, 28 * c + 28, 28 * r + 28]
            picture = pixels(image)
            assert picture.shape == pixels(row.images[0]).shape == (28 * len(meta["rows"]),) * 2 + (3,)
            trail = (picture == TRAIL_COLOR).all(-1)
            cell = trail[28 * r : 28 * r + 28, 28 * c : 28 * c + 28]
            sides = {"D": cell[0], "U": cell[-1], "R": cell[:, 0], "L": cell[:, -1]}
            last_move = meta["plan"][min(h, len(meta["plan"])) - 1]
            assert [move for move, side in sides.items() if side.any()] == [last_move], "seen in the focus box alone"
            trails.append(trail.sum())
        assert trails[: len(meta["plan"])] == sorted(set(trails)), "the trail grows by every move, then stays"
        assert not (pixels(row.images[0]) == TRAIL_COLOR).all(-1).any()


def pixels(image):
    with Image.open(io.BytesIO(image.bytes)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_longer_plan_spreads_over_the_eight_helper_images():
    assert moves_shown(3, 8) == [1, 2, 3, 3, 3, 3, 3, 3]
    assert moves_shown(12, 8) == [2, 3, 4, 6, 8, 9, 10, 12]
    rows = ("SHFFF", "FHFHF", "FHFHF", "FHFHF", "FFFHG")
    row = make_row(rows, 0, "train", True, StepStyle("trail"))
    assert row.meta["focus"][0][-1] == [112, 112, 140, 140]


def test_the_plan_may_be_put_into_words():
    options = {"n_train": 5, "n_prompts": 2, "n_test": 1, "seed": 1}
    plain, told = (
        {split.name: list(split.rows) for split in splits(VspOptions(**options, words=words))}
        for words in (False, True)
    )
    assert told["prompts"] == plain["prompts"]
    for row, other in zip(told["train"], plain["train"], strict=True):
        *latents, text, answer = row.steps
        assert [*latents, answer] == other.steps and row.model_copy(update={"steps": other.steps}) == other
        words = {"up": "U", "down": "D", "left": "L", "right": "R"}
        assert ",".join(words[word] for word in re.findall(r"up|down|left|right", text.text)) == row.answer
        assert f"{len(row.meta['plan'])} move" in text.text


# Reading a folder of published maps


@pytest.fixture
def folder(tmp_path):
    """Two maps in the published layout, one of level 3 and one of level 4, with pictures of 64 pixels a cell."""
    lines = []
    for level, desc in ((3, [[1, 0, 0], [-1, 0, 0], [0, 0, 2]]), (4, [[1, 2, 0, 0], [0] * 4, [0] * 4, [0] * 4])):
        path = tmp_path / f"level{level}" / "img" / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64 * level, 64 * level), (10, 200, 30)).save(path)
        image = path.relative_to(tmp_path).as_posix()
        lines.append({"id": f"level{level}/1", "level": level, "image": image, "map_desc": desc})
    write_table(tmp_path, lines)
    return tmp_path


def write_table(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def read_table(folder):
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_published_maps_become_the_test_split_at_28_pixels_a_cell(folder):
    options = VspOptions(n_train=2, n_prompts=0, n_test=3, n_validation=1, sizes=(3,), maps=folder)
    made = {split.name: list(split.rows) for split in splits(options)}
    assert {name: len(rows) for name, rows in made.items()} == {"test": 1, "generated": 3, "validation": 1, "train": 2}
    row = made["test"][0]
    assert (row.id, row.meta["rows"], row.answer) == ("vsp-published-level3-1", ["SFF", "HFF", "FFG"], "R,D,D,R")
    assert pixels(row.images[0]).shape == (84, 84, 3)


def test_levels_and_picture_size_can_be_chosen(folder):
    published = PublishedMaps.open(folder, (4,))
    (row,) = published.rows("test", True, StepStyle())
    assert row.images[0].bytes == (folder / "level4/img/1.png").read_bytes()
    assert row.images[0].path == "level4/img/1.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map_desc": [[1, 0], [0, 0]]}, "not a square map with one start and one goal"),
        ({"map_desc": [[1, 0, 0], [2, 0, 0]]}, "not a square map"),
        ({"map_desc": [[1, -1, 0], [-1, -1, 0], [0, 0, 2]]}, "no way from start to goal"),
        ({"map_desc": [[7, 0], [0, 0]]}, "not a map"),
        ({"map_desc": 3}, "not a map"),
        ({"image": "level3/img/99.png"}, "no image"),
        ({"image": "../secret.png"}, "no image"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(folder, change, message):
    (folder.parent / "secret.png").write_bytes(b"x")
    lines = read_table(folder)
    lines[1] |= change
    write_table(folder, lines)
    with pytest.raises((DataError, DataFileError), match=r"rows.jsonl, line 2") as caught:
        PublishedMaps.open(folder, (3,))
    assert message in str(caught.value) and caught.value.remedy


def test_a_folder_without_maps_says_what_is_expected(tmp_path, folder):
    with pytest.raises(DataFileError, match=r"rows.jsonl does not exist"):
        PublishedMaps.open(tmp_path / "nowhere", (3,))
    with pytest.raises(DataError, match="no maps of level 5, 7") as caught:
        PublishedMaps.open(folder, (3, 7, 5))
    assert caught.value.remedy


def test_a_broken_picture_is_named(folder):
    (folder / "level3/img/1.png").write_bytes(b"not a picture")
    with pytest.raises(DataFileError, match=r"1.png cannot be read"):
        list(PublishedMaps.open(folder, (3,)).rows("test", False, StepStyle()))


@pytest.mark.shared_data
def test_all_published_maps_are_read_solved_and_reserved(shared_data):
    published = PublishedMaps.open(shared_data / "vsp_maze_main", tuple(range(3, 9)))
    assert len(published.maps) == 336
    for item in published.maps:
        assert gymnasium_judge(item.rows, shortest_plan(item.rows))
        assert map_hash(item.rows) in reserved_hashes(), item.id
    table = read_table(shared_data / "vsp_maze_main")
    for item, line in zip(published.maps, table, strict=True):
        # The table's own words are a second source: "The player is at: row 3, column 2;"
        r, c = next((r, row.index("S")) for r, row in enumerate(item.rows) if "S" in row)
        assert f"The player is at: row {r + 1}, column {c + 1};" in line["pure_text"]
        assert line["level"] == len(item.rows)


@pytest.mark.shared_data
def test_the_reserved_file_is_the_given_one(shared_data):
    lines = (shared_data / "vsp_reserved.txt").read_text(encoding="utf-8").splitlines()
    assert reserved_hashes() == {line for line in lines if line[0].isdigit()}
    assert len(reserved_hashes()) == 570


@pytest.mark.shared_data
def test_no_published_map_is_generated(shared_data):
    published = PublishedMaps.open(shared_data / "vsp_maze_main", (3, 4))
    forms = {form for item in published.maps for form in all_forms(item.rows)}
    natural = VspConditions((3, 4), 0.15, 1, None)
    made = list(generate_train("0", 3000, natural, set()))
    assert not {"\n".join(rows) for rows in made} & forms
    # Without the reservation some would have come up: the conditions do reach them.
    random_ = random.Random(0)
    drawn = set()
    for _ in range(20_000):
        cells = ["H" if random_.random() < 0.15 else "F" for _ in range(9)]
        start, goal = random_.sample(range(9), 2)
        cells[start], cells[goal] = "S", "G"
        drawn.add("\n".join("".join(cells[i : i + 3]) for i in (0, 3, 6)))
    assert drawn & forms
