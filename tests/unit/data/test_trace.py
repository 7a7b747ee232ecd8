"""The trace task against a plain re-simulation, a brute-force symmetry check, and the pixels of its pictures."""

import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from covt_data.data_errors import DataError
from covt_data.ingest.prepare import prepare
from covt_data.sources.trace import TraceOptions, splits
from covt_data.store.prepared_set import PreparedSet
from covt_data.tasks.trace_maps import TraceMap, canonical, cell_name, draw_trace, generate, make_row
from covt_data.tasks.trace_render import MARKER

OFFSETS = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}


def follow(arrows, start, hops):
    """Independent of the package: the cells visited."""
    r, c = start
    cells = [(r, c)]
    for _ in range(hops):
        dr, dc = OFFSETS[arrows[r][c]]
        r, c = r + dr, c + dc
        cells.append((r, c))
    return cells


def rotate(arrows, start):
    """A quarter turn clockwise, written out: (r, c) goes to (c, n-1-r), and U becomes R."""
    n = len(arrows)
    turned = [[""] * n for _ in range(n)]
    for r in range(n):
        for c in range(n):
            turned[c][n - 1 - r] = {"U": "R", "R": "D", "D": "L", "L": "U"}[arrows[r][c]]
    return ["".join(row) for row in turned], (start[1], n - 1 - start[0])


def mirror(arrows, start):
    n = len(arrows)
    return [row[::-1].translate(str.maketrans("LR", "RL")) for row in arrows], (start[0], n - 1 - start[1])


def all_forms(arrows, start):
    forms = []
    for flipped in (False, True):
        form = mirror(arrows, start) if flipped else (list(arrows), start)
        for _ in range(4):
            forms.append((tuple(form[0]), tuple(form[1])))
            form = rotate(*form)
    return forms


def pixels(image):
    with Image.open(io.BytesIO(image.bytes)) as picture:
        return np.asarray(picture.convert("RGB"))


def rows_by_split(**options):
    return {split.name: list(split.rows) for split in splits(TraceOptions(**options))}


@pytest.fixture(scope="module")
def small():
    return rows_by_split(n_train=120, n_prompts=150, n_test=60, seed=3)


def test_answers_and_paths_are_where_the_arrows_lead(small):
    for row in [row for rows in small.values() for row in rows]:
        meta = row.meta
        cells = follow(meta["arrows"], meta["start"], meta["hops"])
        assert [tuple(cell) for cell in meta["path"]] == cells
        assert len(set(cells)) == meta["hops"] + 1, "the path crosses itself"
        r, c = cells[-1]
        assert row.answer == "ABCD"[c] + "1234"[r]
        assert f"Follow {meta['hops']} arrow" in row.question
        for r in range(4):
            for c in range(4):
                dr, dc = OFFSETS[meta["arrows"][r][c]]
                assert 0 <= r + dr < 4 and 0 <= c + dc < 4, "an arrow points off the grid"


def test_steps_are_eight_helper_images_and_the_answer(small):
    for row in small["train"] + small["test"]:
        latent, text = row.steps
        assert (latent.type, len(latent.images), text.text) == (
            "latent", 8, f"\\boxed{{{row.answer}}}"
        )  # fmt: skip
    assert all(not row.steps for row in small["prompts"])


def test_helper_image_h_shows_the_marker_after_h_hops_in_its_focus_box(small):
    for row in small["train"][:40]:
        meta = row.meta
        assert pixels(row.images[0]).shape == (112, 112, 3)
        assert marked_cells(pixels(row.images[0])) == [tuple(meta["start"])]
        for h, (image, box) in enumerate(zip(row.steps[0].images, meta["focus"][0], strict=True), 1):
            r, c = meta["path"][min(h, meta["hops"])]
            assert marked_cells(pixels(image)) == [(r, c)]
            assert box == [28 * c, 28 * r, 28 * c + 28, 28 * r + 28]


def marked_cells(picture):
    return [
        (r, c)
        for r in range(picture.shape[0] // 28)
        for c in range(picture.shape[1] // 28)
        if (picture[28 * r : 28 * r + 28, 28 * c : 28 * c + 28] == MARKER).all(-1).sum() > 100
    ]


def test_every_arrow_of_a_picture_can_be_read_from_its_pixels():
    trace = TraceMap(("RDL", "UDL", "URL"), (1, 1), 1)
    picture = pixels(make_row(trace, 0, "train", False).images[0])
    for r in range(3):
        for c in range(3):
            black = (picture[28 * r : 28 * r + 28, 28 * c : 28 * c + 28] == 0).all(-1)
            y, x = np.nonzero(black)
            # The head is the widest part: its side of the arrow's middle holds more black.
            lean = {"U": (y < 15.5), "D": (y > 15.5), "L": (x < 15.5), "R": (x > 15.5)}
            sums = {name: side.sum() for name, side in lean.items()}
            assert max(sums, key=sums.__getitem__) == trace.arrows[r][c]


def test_no_map_is_in_two_splits_up_to_symmetry(small):
    owner = {}
    for name, rows in small.items():
        for row in rows:
            meta = row.meta
            for form in all_forms(meta["arrows"], meta["start"]):
                assert owner.setdefault((form, meta["hops"]), row.id) == row.id
        assert rows, name


def test_the_canonical_form_agrees_with_brute_force():
    random_ = random.Random(5)
    for size in (3, 4, 5):
        for _ in range(30):
            trace = draw_trace(random_, size, 3)
            forms = all_forms(trace.arrows, trace.start)
            assert len({canonical(TraceMap(arrows, start, 3)) for arrows, start in forms}) == 1
            other = draw_trace(random_, size, 3)
            same_class = (other.arrows, other.start) in forms
            assert (canonical(other) == canonical(trace)) == same_class
            assert canonical(TraceMap(trace.arrows, trace.start, 4)) != canonical(trace)


def test_a_crowded_space_still_gives_disjoint_maps_and_then_says_it_is_exhausted():
    # 2×2 maps with one hop: 16 arrow fields × 4 starts, 8 symmetries: at most a few classes.
    seen: set[str] = set()
    classes = {frozenset(all_forms(a, s)) for a in fields_2x2() for s in ((0, 0), (0, 1), (1, 0), (1, 1))}
    found = []
    with pytest.raises(DataError, match=f"only {len(classes)} of 100 different 2×2 maps") as caught:
        found.extend(generate("0", 100, 2, [1.0], seen))
    assert "fewer rows" in caught.value.remedy
    assert len(seen) == len(classes)


def fields_2x2():
    choices = [("R", "D"), ("L", "D"), ("R", "U"), ("L", "U")]
    return [(a + b, c + d) for a in choices[0] for b in choices[1] for c in choices[2] for d in choices[3]]


def test_hop_weights_are_separate_for_demonstrations_and_the_rest():
    made = rows_by_split(
        n_train=300, n_prompts=300, n_test=50, max_hops=4, demo_hops="4,1,0,0", hops=(0, 0, 1, 1), seed=1
    )
    hops = {name: Counter(row.meta["hops"] for row in rows) for name, rows in made.items()}
    assert set(hops["train"]) == {1, 2} and hops["train"][1] > 2 * hops["train"][2]
    assert set(hops["prompts"]) == set(hops["test"]) == {3, 4}


def test_hops_are_even_by_default(small):
    counts = Counter(row.meta["hops"] for rows in small.values() for row in rows)
    assert set(counts) == set(range(1, 9)) and min(counts.values()) > 15


def test_the_test_split_depends_on_the_seed_and_not_on_the_other_counts(small):
    again = rows_by_split(n_train=1, n_prompts=0, n_test=60, seed=3)
    assert again["test"] == small["test"] and "prompts" not in again
    assert rows_by_split(n_train=1, n_prompts=0, n_test=60, seed=4)["test"] != small["test"]


def test_cells_are_named_column_then_row():
    assert (cell_name((2, 1)), cell_name((0, 0)), cell_name((7, 7))) == ("B3", "A1", "H8")


@pytest.mark.parametrize("size", [3, 8])
def test_the_smallest_and_largest_grid_take_eight_hops(size):
    trace = draw_trace(random.Random(0), size, 8)
    assert len(set(follow(trace.arrows, trace.start, 8))) == 9


def test_short_demonstrations_may_answer_directly(tmp_path):
    options = {"n_train": 200, "n_prompts": 5, "n_test": 20, "direct_hops": 3, "direct_share": 0.5}
    prepare("trace", tmp_path / "set", options=options)
    prepared = PreparedSet(tmp_path / "set")
    direct = [row for row in prepared.rows("train") if [step.type for step in row.steps] == ["text"]]
    short = [row for row in prepared.rows("train") if row.meta["hops"] <= 3]
    assert all(row.meta["hops"] <= 3 and "focus" not in row.meta for row in direct)
    assert 0.3 < len(direct) / len(short) < 0.7
    assert all(len(row.steps) == 2 for row in prepared.rows("test"))


def test_the_way_may_be_put_into_words(tmp_path):
    options = {"n_train": 30, "n_prompts": 2, "n_test": 2, "direct_hops": 2}
    for name, words in (("plain", False), ("told", True)):
        prepare("trace", tmp_path / name, options=options | {"words": words})
    pairs = zip(*(PreparedSet(tmp_path / name).rows("train") for name in ("told", "plain")), strict=True)
    told = 0
    for row, other in pairs:
        assert row.model_copy(update={"steps": other.steps}) == other
        if len(other.steps) == 2:
            latent, text, answer = row.steps
            assert [latent, answer] == other.steps
            cells = text.text.removeprefix("From ").removesuffix(".").replace(" to ", ", ").split(", ")
            assert cells == [cell_name(tuple(cell)) for cell in row.meta["path"]]
            told += 1
    assert told > 10


def test_larger_cells_repeat_pixels_and_move_the_boxes():
    """With 32 pixels per cell: the same map, each cell the one of 28 pixels enlarged, and boxes of whole cells."""
    trace = draw_trace(random.Random(1), 4, 3)
    small, large = (make_row(trace, 0, "train", True, side=side) for side in (28, 32))
    source = np.arange(32) * 28 // 32
    index = np.concatenate([28 * cell + source for cell in range(4)])
    for one, other in zip(small.images + small.steps[0].images, large.images + large.steps[0].images, strict=True):
        assert (pixels(other) == pixels(one)[index][:, index]).all()
    boxes = [[[32 * place // 28 for place in box] for box in boxes] for boxes in small.meta["focus"]]
    assert large.meta["focus"] == boxes
