"""Latents read as sets of cells: the linear map on the features of a real tower, and what is counted from it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from covt_data.ingest.prepare import prepare
from covt_data.store.prepared_set import PreparedSet
from covt_data.tasks.vsp_sets import CellSet, latent_sets
from covt_eval.eval_errors import EvalError
from covt_eval.interpretation.decoded_sets import SetReader, compare, count_exact, fit_reader, read_share, write_decoded
from covt_eval.interpretation.shown_rows import load_answerer
from covt_eval.report.sections.decoded import exact_sets, read_decoded
from covt_sft.planning.starting_checkpoint import build_tiny_checkpoint
from covt_sft.sft_recipe import SftConfig

CONFIG = SftConfig.model_validate(
    {
        "data": {"path": "data"},
        "latent": {"normalize": "rms"},
        "model": {"tiny": {"hidden": 96, "heads": 3, "mrope": [2, 7, 7]}},
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("decoded")
    prepare("vsp", path / "data", options={"n_train": 200, "n_prompts": 0, "n_test": 16, "n_validation": 0})
    build_tiny_checkpoint(CONFIG, path / "data", path / "model")
    return path


@pytest.fixture(scope="module")
def answerer(folder):
    return load_answerer(folder / "model")


@pytest.fixture(scope="module")
def reader(folder, answerer):
    return fit_reader(4, answerer)


def as_latents(row, answerer):
    """The row's own helper images as latents, by segment: what a perfect model would feed itself."""
    return [
        answerer.normalized_features([image.bytes for image in step.images])
        for step in row.steps
        if step.type == "latent"
    ]


def test_the_features_of_a_random_tower_tell_the_set_exactly(folder, answerer, reader):
    assert read_share(list(PreparedSet(folder / "data").rows("train")), answerer, reader) > 0.98
    rows = [row for row in PreparedSet(folder / "data").rows("test") if row.steps]
    counted = count_exact(rows, [as_latents(row, answerer) for row in rows], reader)
    assert counted["rows"] == len(rows) > 5
    assert [name for name, _ in counted["latents"]] == [name for names in rows[0].meta["names"] for name in names]
    assert min(share for _, share in counted["latents"]) > 0.9


def test_latents_of_another_row_are_not_read_as_this_rows(folder, answerer, reader):
    rows = [row for row in PreparedSet(folder / "data").rows("test") if row.steps]
    swapped = [as_latents(row, answerer) for row in (*rows[1:], rows[0])]
    shares = dict(map(tuple, count_exact(rows, swapped, reader)["latents"]))
    assert shares["holes"] < 0.3 and shares["the goal"] < 0.5


def test_an_answer_without_latents_says_nothing(folder, reader):
    rows = [row for row in PreparedSet(folder / "data").rows("test") if row.steps][:2]
    holes = latent_sets(rows[0].meta["rows"], "wavefront", 8)[0][0]
    told = [[torch.zeros(1, 96)], []]
    counted = count_exact(rows, told, reader)
    assert counted["latents"][0][0] == holes.name and counted["latents"][0][1] in (0, 0.5)
    assert count_exact(rows, [[], []], reader)["latents"] == []


def test_right_wrong_and_missed_cells_are_told_apart():
    expected = CellSet("after 2 moves", (((0, 0), "before"), ((0, 1), "agent"), ((2, 2), "agent")))
    found = compare(expected, {(0, 1): "agent", (0, 0): "agent", (1, 1): "wave"}, 3)
    assert found == {
        "name": "after 2 moves",
        "size": 3,
        "right": [[0, 1, "agent"]],
        "wrong": [[0, 0, "agent"], [1, 1, "wave"]],
        "missed": [[0, 0, "before"], [2, 2, "agent"]],
    }


def test_a_reader_recovers_a_linear_code():
    """Features that are a random linear code of the sets, with noise: read without an error."""
    random = np.random.default_rng(0)
    sets = [
        {(int(r), int(c)): "wave" for r, c in random.integers(0, 4, (random.integers(0, 5), 2))} for _ in range(600)
    ]
    code = torch.from_numpy(random.normal(size=(16, 40)))
    marks = torch.zeros(600, 16, dtype=torch.float64)
    for number, cells in enumerate(sets):
        for r, c in cells:
            marks[number, 4 * r + c] = 1
    noisy = marks[50:] @ code + 0.01 * torch.from_numpy(random.normal(size=(550, 40)))
    reader = SetReader.fit(4, {"wave": (noisy, sets[50:])})
    assert reader.read(marks[:50] @ code, ["wave"] * 50) == sets[:50]


def test_data_whose_latents_are_no_sets_is_refused_by_name(folder, tmp_path):
    prepare("trace", tmp_path / "data", options={"n_train": 2, "n_prompts": 0, "n_test": 2})
    with pytest.raises(EvalError, match="no latents that stand for sets") as caught:
        write_decoded(tmp_path, folder / "model", tmp_path / "data")
    assert "latents=wavefront" in caught.value.remedy


def test_what_is_written_is_read_by_the_report(folder):
    write_decoded(folder, folder / "model", folder / "data")
    samples = json.loads((folder / "samples" / "samples.json").read_text())
    assert [len(read_decoded(sample)) for sample in samples] == [len(sample["decoded"]) for sample in samples]
    counted = json.loads((folder / "latents.json").read_text())
    assert counted["rows"] == 16 and counted["reader"] > 0.98
    (folder / "latents.json").write_text(json.dumps(counted | {"latents": [["holes", 0.75], ["the goal", "x"], [1]]}))
    found = exact_sets(SimpleNamespace(folder=folder, notes=[]))  # type: ignore[arg-type]
    assert found is not None
    assert [(row.name, row.value) for row in found.chart.rows] == [("1 · holes", "75.0\u00a0%")]
