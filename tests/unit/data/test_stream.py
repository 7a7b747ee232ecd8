"""Streams: order, ranks, mixing, exact resume, little memory; and picture limits at load."""

import io
import json
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import picture, write_virl
from PIL import Image as PillowImage

from covt_data.data_errors import DataError
from covt_data.images.pixel_limits import PixelLimits, fit_row, fitted_size, visual_tokens
from covt_data.ingest.prepare import prepare
from covt_data.schema import Image, Row, Step
from covt_data.store import shards
from covt_data.store.prepared_set import PreparedSet
from covt_data.stream.lazy_rows import JoinedRows, LazyRows, RowsById
from covt_data.stream.row_stream import Part, RowStream, mixture


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedSet:
    folder = tmp_path_factory.mktemp("stream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "GROUP_ROWS", 5)
        patch.setattr(shards, "SHARD_ROWS", 30)
        source = write_virl(folder / "virl", 83, irregular=False)
        prepare("virl39k", folder / "set", options={"path": str(source)})
    return PreparedSet(folder / "set")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> PreparedSet:
    out = tmp_path_factory.mktemp("other") / "trace"
    prepare("trace", out, options={"n_train": 17, "n_prompts": 1, "n_test": 1})
    return PreparedSet(out)


def ids(stream, count):
    return [row.id for row in islice(stream, count)]


def test_rows_by_index_are_the_rows_in_order(prepared):
    rows = LazyRows(prepared, "train", keep=2)
    expected = list(prepared.rows("train"))
    assert len(rows) == 83 and [rows[index] for index in range(83)] == expected
    assert rows[-1] == expected[-1] and rows[10:13] == expected[10:13]
    with pytest.raises(IndexError):
        rows[83]
    assert len(rows._cache) == 2


@pytest.mark.parametrize("limit", [1, 5, 33, 83, 200])
def test_the_first_rows_of_a_split(prepared, limit):
    rows = LazyRows(prepared, "train", limit)
    expected = list(prepared.rows("train", limit))
    assert list(rows) == expected and list(rows.ids()) == [row.id for row in expected]
    assert sorted(rows.order(0, 0)) == list(range(len(expected)))


def test_rows_of_two_sets_under_one_index_and_by_id(prepared, other):
    rows = JoinedRows([LazyRows(prepared, "train", 12), LazyRows(other, "train")])
    expected = [*prepared.rows("train", 12), *other.rows("train")]
    assert list(rows) == expected and rows[-1] == expected[-1]
    assert [rows.place(0, 3), rows.place(1, 3)] == [3, 15]
    by_id = RowsById(rows)
    assert list(by_id) == [row.id for row in expected]
    assert all(by_id[row.id] == row for row in expected)
    with pytest.raises(DataError, match="two rows have the id"):
        RowsById(JoinedRows([LazyRows(other, "train"), LazyRows(other, "train")]))


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0), (3.0, 0.5)])
@pytest.mark.parametrize("count", [0, 1, 17, 18, 83, 84, 300, 1024, 1025, 2500])
def test_repeated_positions_are_those_whose_row_came_before(prepared, other, weights, count):
    parts = [Part(prepared, "train", weights[0]), *(Part(other, "train", weight) for weight in weights[1:])]
    stream = RowStream(parts, seed=4)
    assert stream.repeated(count) == count - len({stream.index(place) for place in range(count)})


def test_a_set_of_few_row_groups_is_shuffled_as_a_whole(prepared):
    rows = LazyRows(prepared, "train", 40)
    assert len(rows.groups) == 8
    assert list(rows.order(3, 1)) == list(np.random.default_rng((3, 1)).permutation(40))


def test_each_epoch_has_every_row_once_in_another_order(prepared):
    stream = RowStream([Part(prepared, "train")], seed=0)
    first, second = ids(stream, 83), ids(stream, 83)
    everything = sorted(row.id for row in prepared.rows("train"))
    assert sorted(first) == sorted(second) == everything
    assert first != second and first != everything
    assert ids(RowStream([Part(prepared, "train")], seed=1), 83) != first
    assert ids(RowStream([Part(prepared, "train")], seed=0, shuffle=False), 83) == everything


def test_shuffling_reads_each_row_group_about_once(prepared, monkeypatch):
    stream = RowStream([Part(prepared, "train")], seed=0)
    reads, group = [], LazyRows._group

    def counting(self, number):
        if number not in self._cache:
            reads.append(number)
        return group(self, number)

    monkeypatch.setattr(LazyRows, "_group", counting)
    ids(stream, 83)
    assert sorted(reads) == list(range(len(stream.rows.parts[0].groups)))


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_order_of_one(prepared, ranks):
    whole = ids(RowStream([Part(prepared, "train")], seed=4), 60)
    shares = [ids(RowStream([Part(prepared, "train")], seed=4, rank=r, ranks=ranks), 60 // ranks) for r in range(ranks)]
    assert [id_ for step in zip(*shares, strict=True) for id_ in step] == whole


def test_sets_are_mixed_by_weight_and_each_is_passed_over_epoch_by_epoch(prepared, other):
    stream = RowStream([Part(prepared, "train", 3.0), Part(other, "train", 1.0)], seed=0)
    rows = list(islice(stream, 2500))
    share = np.mean([row.source == "virl39k" for row in rows])
    assert abs(share - 0.75) < 0.03
    traces = [row.id for row in rows if row.source == "trace"]
    for epoch in range(len(traces) // 17):
        assert len(set(traces[epoch * 17 : (epoch + 1) * 17])) == 17
    counts = Counter(row.id for row in rows if row.source == "virl39k")
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("done", [1, 40, 1100])
def test_a_stream_resumes_exactly_also_on_another_number_of_ranks(prepared, other, done):
    parts = [Part(prepared, "train", 2.0), Part(other, "train", 1.0)]
    stream = RowStream(parts, seed=2, rank=0, ranks=1)
    for _ in range(done):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    expected = ids(stream, 20)
    again = RowStream(parts, seed=2)
    again.resume(state)
    assert ids(again, 20) == expected
    shares = []
    for rank in range(2):
        half = RowStream(parts, seed=2, rank=rank, ranks=2)
        half.resume(state)
        shares.append(ids(half, 10))
    assert [id_ for pair in zip(*shares, strict=True) for id_ in pair] == expected


def test_a_mixture_has_its_first_set_with_weight_one(prepared, other):
    first, second = mixture(prepared.path, "train", 20, [(other.path, "train", 0.5)])
    assert (first.limit, first.weight, second.weight) == (20, 1.0, 0.5)
    seen = Counter(row.source for row in islice(RowStream([first, second], seed=0), 3000))
    assert abs(seen["trace"] / 3000 - 1 / 3) < 0.03


def test_a_position_of_another_stream_is_refused(prepared, other):
    state = RowStream([Part(prepared, "train")], seed=2).state()
    for parts, seed in (([Part(prepared, "train")], 3), ([Part(other, "train")], 2)):
        with pytest.raises(DataError, match="of another stream"):
            RowStream(parts, seed=seed).resume(state)


@pytest.mark.parametrize(
    ("weight", "rank", "message"), [(0.0, 0, "positive weights"), (1.0, 2, "rank 2 of 2"), (1.0, -1, "rank -1")]
)
def test_impossible_streams_are_refused(prepared, weight, rank, message):
    with pytest.raises(DataError, match=message):
        RowStream([Part(prepared, "train", weight)], seed=0, rank=rank, ranks=2)


# Picture limits


@given(st.integers(28, 3000), st.integers(28, 3000), st.integers(0, 40), st.integers(0, 400))
def test_sizes_are_those_of_the_models_processor(width, height, low, more):
    from covt_model.families.image_patches import fit_size
    from covt_model.families.qwen2_5_vl.defaults import DEFAULTS

    limits = PixelLimits((low + 1) * 28 * 28, (low + 1 + more) * 28 * 28)
    settings = replace(DEFAULTS, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    found = fitted_size(width, height, limits)
    assert found == fit_size(height, width, settings)[::-1]
    assert visual_tokens(width, height, limits) == found[0] * found[1] // 784


def test_pictures_outside_the_limits_are_resized_and_boxes_along(prepared):
    helper = picture(size=(280, 560))
    row = Row(
        id="r", source="s", split="train", question="<image><image>?", answer="1", grader="math",
        images=[Image(bytes=picture(size=(56, 56))), Image(bytes=picture(size=(20, 30)))],
        steps=[Step(type="latent", images=[Image(bytes=helper)])],
        metadata=json.dumps({"focus": [[[28, 56, 140, 280]]]}),
    )  # fmt: skip
    fitted = fit_row(row, PixelLimits(56 * 56, 36_000))
    sizes = []
    for image in [*fitted.images, *(fitted.steps[0].images or [])]:
        with PillowImage.open(io.BytesIO(image.bytes)) as shown:
            sizes.append(shown.size)
    assert sizes == [(56, 56), (56, 84), (112, 252)]
    assert fitted.images[0] is row.images[0]
    assert fitted.meta["focus"] == [[[11, 25, 56, 126]]]
    assert fit_row(row, PixelLimits(28 * 28, 10**6)).steps == row.steps
    stream = RowStream([Part(prepared, "train")], seed=0, limits=PixelLimits(100 * 100, 200 * 200))
    with PillowImage.open(io.BytesIO(next(stream).images[0].bytes)) as shown:
        assert 100 * 100 <= shown.width * shown.height <= 200 * 200


def test_limits_that_cannot_be_met_are_refused():
    for low, high in ((10, 1000), (2000, 1000)):
        with pytest.raises(DataError, match="min_pixels"):
            PixelLimits(low, high)
