"""Contract A: the row type, its Parquet form, and what other programs see in it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from covt_data.ingest.prepare import prepare
from covt_data.schema import SCHEMA_VERSION, Row
from covt_data.store.arrow_rows import ARROW_SCHEMA
from covt_data.store.prepared_set import PreparedSet

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
COLUMNS = {
    "id": pa.string(),
    "source": pa.string(),
    "split": pa.string(),
    "category": pa.string(),
    "question": pa.string(),
    "images": pa.list_(IMAGE),
    "options": pa.list_(pa.string()),
    "answer": pa.string(),
    "grader": pa.string(),
    "steps": pa.list_(pa.struct({"type": pa.string(), "text": pa.string(), "images": pa.list_(IMAGE)})),
    "metadata": pa.string(),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    out = tmp_path_factory.mktemp("rows") / "trace"
    prepare("trace", out, options={"n_train": 3, "n_prompts": 2, "n_test": 2})
    return PreparedSet(out)


def test_the_columns_are_those_of_the_contract(prepared):
    assert SCHEMA_VERSION == 1
    assert dict(zip(ARROW_SCHEMA.names, ARROW_SCHEMA.types, strict=True)) == COLUMNS
    assert list(Row.model_fields) == list(COLUMNS)
    for split in prepared.splits:
        for shard in prepared.shards(split):
            assert pq.read_schema(shard).equals(ARROW_SCHEMA)


def test_the_graders_are_those_of_the_contract():
    schema = Row.model_json_schema()
    assert schema["properties"]["grader"]["enum"] == ["math", "choice", "text", "vsp", "boxes", "comt"]
    assert schema["$defs"]["Step"]["properties"]["type"]["enum"] == ["text", "latent"]


def test_the_manifest_tells_origin_counts_hashes_and_rejections(prepared):
    manifest = json.loads((prepared.path / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest) == {
        "schema_version", "source", "version", "command", "options", "inputs", "counts", "files", "rejected",
        "filtered", "converted",
    }  # fmt: skip
    assert manifest["schema_version"] == 1
    assert manifest["counts"]["train"]["rows"] == 3 == sum(manifest["counts"]["train"]["categories"].values())
    assert set(manifest["files"]["train/part-00000.parquet"]) == {"sha256", "bytes", "rows"}


def test_vsp_metadata_holds_the_rows_of_the_map(tmp_path):
    prepare("vsp", tmp_path / "vsp", options={"n_train": 2, "n_prompts": 1, "n_test": 1})
    row = next(PreparedSet(tmp_path / "vsp").rows("train"))
    assert row.grader == "vsp"
    assert all(set(line) <= set("SFHG") for line in row.meta["rows"])


def test_hugging_face_datasets_shows_decoded_pictures(prepared, tmp_path):
    import datasets

    files = {split: [str(path) for path in prepared.shards(split)] for split in prepared.splits}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    row = loaded["train"][0]
    assert row["images"][0].size == (112, 112)
    assert [picture.size for picture in row["steps"][0]["images"]] == [(112, 112)] * 8
    assert row["steps"][1]["text"].startswith("\\boxed{")
    assert isinstance(loaded["train"].features["images"].feature, datasets.Image)
    assert loaded["prompts"][0]["steps"] == []
