import errno
import hashlib
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image as PillowImage

from covt_data.data_errors import DataError, DataFileError
from covt_data.ingest.prepare import prepare
from covt_data.inspect.contact_sheet import FOCUS, contact_sheet
from covt_data.schema import Image, Row, Step
from covt_data.store import prepared_set as store
from covt_data.store.manifest import Manifest
from covt_data.store.prepared_set import PreparedSet, write_aside, write_split

SMALL = {"n_train": 12, "n_prompts": 7, "n_test": 5}


def make_rows(count, prefix="r"):
    steps = [Step(type="latent", images=[Image(bytes=b"h1"), Image(bytes=b"h2", path="b.png")])]
    return [
        Row(
            id=f"{prefix}{i}",
            source="s",
            split="train",
            category=None if i % 2 else "even",
            question="<image>?",
            images=[Image(bytes=bytes([i, 0, 255]))],
            options=["a", "b"][: i % 3],
            answer=str(i),
            grader="text",
            steps=steps if i % 2 else [],
            metadata=json.dumps({"i": i}),
        )
        for i in range(count)
    ]


def tree(folder):
    """Relative path → SHA-256 of every file below."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = make_rows(7)
    count, files = write_split(iter(rows), tmp_path / "train", rows_per_shard=3)
    assert (count.rows, count.categories) == (7, {"": 3, "even": 4})
    assert [(name, file.rows) for name, file in files.items()] == [
        ("part-00000.parquet", 3),
        ("part-00001.parquet", 3),
        ("part-00002.parquet", 1),
    ]
    manifest = Manifest(
        source="s", version="1", command="c", options={}, counts={"train": count},
        files={f"train/{name}": file for name, file in files.items()},
    )  # fmt: skip
    manifest.write(tmp_path)
    prepared = PreparedSet(tmp_path)
    assert list(prepared.rows("train")) == rows
    assert list(prepared.rows("train", 4)) == rows[:4]
    assert (prepared.splits, prepared.count("train")) == (["train"], 7)
    assert tree(tmp_path / "train") == {name: file.sha256 for name, file in files.items()}


def test_a_repeated_id_is_refused_across_shards(tmp_path):
    with pytest.raises(DataError, match="'r0' occurs twice"):
        write_split([*make_rows(3), *make_rows(1)], tmp_path / "train", rows_per_shard=2)
    assert list(tmp_path.iterdir()) == []


def test_only_one_shard_is_held_in_memory(tmp_path):
    asked, written = 0, tmp_path / "train"

    def counting():
        nonlocal asked
        for row in make_rows(9):
            asked += 1
            done = len(list(tmp_path.glob(".train.*.partial/*.parquet")))
            assert asked <= 3 * (done + 1), "rows were read ahead of the shard being written"
            yield row

    write_split(counting(), written, rows_per_shard=3)
    assert asked == 9


def test_prepare_writes_splits_manifest_and_reports_progress(tmp_path):
    seen = []
    manifest = prepare("trace", tmp_path / "set", options=SMALL, progress=lambda *call: seen.append(call))
    assert {name: count.rows for name, count in manifest.counts.items()} == {"test": 5, "train": 12, "prompts": 7}
    assert seen == [("test", 5, 5), ("train", 12, 12), ("prompts", 7, 7)]
    assert manifest.command == "covt data prepare trace n_train=12 n_prompts=7 n_test=5"
    assert Manifest.read(tmp_path / "set") == manifest
    PreparedSet(tmp_path / "set").verify()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("source", ["trace", "vsp"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, source):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(source, tmp_path / name, options=SMALL | {"seed": seed})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    other = tree(tmp_path / "c")
    assert all(other[name] != digest for name, digest in tree(tmp_path / "a").items())


def test_the_same_command_reuses_the_folder_and_another_needs_overwrite(tmp_path):
    out = tmp_path / "set"
    first = prepare("trace", out, options=SMALL)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    assert prepare("trace", out, options=SMALL) == first
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(DataFileError, match="holds another set, made by `covt data prepare trace") as caught:
        prepare("trace", out, options=SMALL | {"seed": 1})
    assert "--overwrite" in caught.value.remedy
    assert prepare("trace", out, options=SMALL | {"seed": 1}, overwrite=True).options["seed"] == 1
    assert Manifest.read(out).options["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_set_from_before_an_option_was_added_is_reused(tmp_path):
    out = tmp_path / "set"
    first = prepare("trace", out, options=SMALL)
    older = first.model_copy(update={"options": {k: v for k, v in first.options.items() if k != "words"}})
    older.write(out)
    assert prepare("trace", out, options=SMALL) == older
    with pytest.raises(DataFileError, match="holds another set"):
        prepare("trace", out, options=SMALL | {"words": True})


def test_a_set_with_a_lost_shard_is_not_reused(tmp_path):
    prepare("trace", tmp_path / "set", options=SMALL)
    (tmp_path / "set/train/part-00000.parquet").unlink()
    with pytest.raises(DataFileError, match=r"part-00000\.parquet is missing"):
        prepare("trace", tmp_path / "set", options=SMALL)


def test_what_is_not_a_prepared_set_is_never_replaced(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for target in (mine, mine / "thesis.tex"):
        with pytest.raises(DataFileError, match="is not a prepared set") as caught:
            prepare("trace", target, options=SMALL, overwrite=True)
        assert caught.value.remedy == "choose another folder"
    assert (mine / "thesis.tex").read_text() == "years of work"


def test_an_unknown_source_lists_those_there_are(tmp_path):
    with pytest.raises(DataError, match=r"unknown source 'trase' \(did you mean 'trace'\?\)") as caught:
        prepare("trase", tmp_path / "set")
    assert caught.value.remedy == "choose one of comt, jsonl, trace, virl39k, vsp, zebra-cot"


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("trace", {"n_trian": 3}, "trace has no option 'n_trian' (did you mean 'n_train'?)"),
        ("trace", {"n_train": 0}, "option n_train = 0"),
        ("trace", {"n_train": "many"}, "option n_train = 'many'"),
        ("trace", {"size": 9}, "option size = 9"),
        ("trace", {"hops": [1, 2]}, "hops needs max_hops = 8 weights"),
        ("trace", {"hops": "0,0", "max_hops": 2}, "not all zero"),
        ("vsp", {"sizes": "2,3"}, "sizes are 3 to 8"),
        ("vsp", {"detour_share": 1.5}, "option detour_share = 1.5"),
        ("vsp", {"maps": "/nowhere"}, "/nowhere/rows.jsonl does not exist"),
    ],
)
def test_a_bad_option_is_named_and_nothing_is_written(tmp_path, source, options, message):
    with pytest.raises((DataError, DataFileError)) as caught:
        prepare(source, tmp_path / "set", options=options)
    assert message in str(caught.value) and caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_or_full_disk_leaves_nothing_and_keeps_the_old_set(tmp_path, monkeypatch, failure):
    out = tmp_path / "set"
    prepare("trace", out, options=SMALL)
    before, write_table, calls = tree(out), pq.write_table, []

    def failing(table, path, **options):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half a shard")
            raise failure
        write_table(table, path, **options)

    monkeypatch.setattr(store.pq, "write_table", failing)
    with pytest.raises((KeyboardInterrupt, DataFileError)) as caught:
        prepare("trace", out, options=SMALL | {"seed": 5}, overwrite=True)
    assert len(calls) == 2 and tree(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    if isinstance(failure, OSError):
        assert "No space left on device" in str(caught.value)
        assert "free some space" in caught.value.remedy


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_moved_in(tmp_path, monkeypatch):
    old = tmp_path / "set"
    old.mkdir()
    (old / "old").touch()
    rename = Path.rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DataFileError, match="cannot write"), write_aside(old):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "old"]


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_kept(tmp_path):
    dead, alive = tmp_path / ".set.999999999.partial", tmp_path / ".set.1.partial"
    for folder in (dead, alive):
        folder.mkdir()
    with write_aside(tmp_path / "set") as aside:
        assert aside.is_dir() and not dead.exists() and alive.exists()
    assert (tmp_path / "set").is_dir()


def test_a_folder_that_is_not_a_set_says_so(tmp_path):
    with pytest.raises(DataFileError, match="does not exist") as caught:
        PreparedSet(tmp_path / "nothing")
    assert "covt data prepare" in caught.value.remedy
    with pytest.raises(DataFileError, match=r"has no manifest\.json"):
        PreparedSet(tmp_path)
    (tmp_path / "manifest.json").write_text('{"source": "trace"}')
    with pytest.raises(DataFileError, match="is damaged, version"):
        PreparedSet(tmp_path)


def test_damage_to_a_shard_is_noticed(tmp_path):
    prepare("trace", tmp_path / "set", options=SMALL)
    prepared = PreparedSet(tmp_path / "set")
    shard = prepared.shards("test")[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataFileError, match="cannot read"):
        list(prepared.rows("test"))
    with pytest.raises(DataFileError, match="not what was written"):
        prepared.verify()


def test_an_unknown_split_lists_those_there_are(tmp_path):
    prepare("trace", tmp_path / "set", options=SMALL)
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        PreparedSet(tmp_path / "set").count("dev")
    assert caught.value.remedy == "choose one of test, train, prompts"


@pytest.mark.parametrize(("split", "helpers"), [("train", 8), ("prompts", 0)])
def test_the_contact_sheet_has_a_line_a_row_and_a_column_a_helper_image(tmp_path, split, helpers):
    prepare("trace", tmp_path / "set", options=SMALL)
    with PillowImage.open(io.BytesIO(contact_sheet(PreparedSet(tmp_path / "set"), split, 3))) as sheet:
        assert sheet.size == (10 + 178 + 310 + helpers * 122, 10 + 3 * 178)
        column = sheet.crop((sheet.width - 122, 0, sheet.width - 10, sheet.height))
        marks = sum(count for count, color in column.getcolors(1 << 20) or [] if color == FOCUS)
        assert (marks > 3 * 4 * 20) == bool(helpers), "the last helper images have their focus boxes"
