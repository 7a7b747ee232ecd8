"""Rows and files as people have them: empty images, paths, columns of many kinds, other files, bad golds."""

import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import (
    comt_line,
    made,
    picture,
    read_rejections,
    virl_row,
    write_comt,
    write_files,
    write_lines,
    write_virl,
    zebra_row,
)

from covt_data.data_errors import DataError
from covt_data.ingest.prepare import prepare

# Missing helper images


def write_zebra_rows(folder: Path, rows: list[dict]) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("Question", pa.string()), ("Text Reasoning Trace", pa.string()), ("Final Answer", pa.string())]
    columns += [(name, image) for name in zebra_row(0) if "image" in name]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(columns)), folder / "train-00000-of-00001.parquet")
    return folder


UNUSED = {"bytes": None, "path": None}


@pytest.mark.parametrize("absent", [None, UNUSED])
def test_an_unused_image_of_zebra_cot_is_null_or_a_struct_of_nulls(tmp_path, absent):
    row = zebra_row(0, problem_image_2=absent)
    _, (found,) = made("zebra-cot", write_zebra_rows(tmp_path / "Chess", [row]), tmp_path / "out")
    assert len(found.images) == 1 and [len(step.images or []) for step in found.steps] == [0, 2, 0, 1, 0, 0]


@pytest.mark.parametrize("absent", [None, UNUSED])
def test_a_missing_helper_image_is_refused_or_left_out(tmp_path, absent):
    rows = [zebra_row(0), zebra_row(1, reasoning_image_2=absent),
            zebra_row(2, reasoning_image_1=absent, reasoning_image_2=absent)]  # fmt: skip
    folder = write_zebra_rows(tmp_path / "Chess", rows)
    manifest, found = made("zebra-cot", folder, tmp_path / "one", max_rejected=0.7)
    assert manifest.rejected == {"helper_image_missing": 2} and len(found) == 1
    detail = read_rejections(tmp_path / "one" / "rejected.jsonl")[0]["detail"]
    assert "reasoning_image_2" in detail and "missing_helpers=drop_step" in detail
    manifest, found = made("zebra-cot", folder, tmp_path / "two", missing_helpers="drop_step")
    assert manifest.rejected == {} and manifest.converted == {"helper_image_dropped": 3}
    assert [[len(step.images or []) for step in row.steps] for row in found] == [
        [0, 2, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0],
    ]  # fmt: skip


def test_a_missing_image_of_the_question_is_always_refused(tmp_path):
    folder = write_zebra_rows(tmp_path / "Chess", [zebra_row(0), zebra_row(1, problem_image_1=UNUSED)])
    manifest, _ = made("zebra-cot", folder, tmp_path / "out", missing_helpers="drop_step", max_rejected=0.5)
    assert manifest.rejected == {"image_missing": 1}


def test_a_helper_file_that_is_not_there_may_be_left_out_too(tmp_path):
    plan = [{"type": "text", "content": "Draw."}, {"type": "latent", "helper_image": "images_comt/no.png"}]
    folder = write_comt(tmp_path / "comt", extra=[comt_line(0, sequence_plan=plan)], packed=False)
    manifest, rows = made("comt", folder, tmp_path / "out", missing_helpers="drop_step")
    assert manifest.converted == {"helper_image_dropped": 1}
    assert [step.text for step in rows[-1].steps] == ["Draw.", "\\boxed{70°}"]


def test_a_row_whose_only_steps_are_missing_images_is_refused(tmp_path):
    plan = [{"type": "latent", "helper_image": "images_comt/no.png"}]
    folder = write_comt(tmp_path / "comt", extra=[comt_line(0, sequence_plan=plan)], packed=False)
    manifest, _ = made("comt", folder, tmp_path / "out", missing_helpers="drop_step", boxed=False, max_rejected=0.2)
    assert manifest.rejected == {"empty_step": 1}


# ViRL39K


def test_a_text_row_of_virl39k_is_read(tmp_path):
    folder = write_virl(tmp_path / "virl", rows=1, irregular=False)
    row = virl_row(5, question="Given that $$AB \\perp CD$$, find $AB$.", answer="\\boxed{4}", qid="MMK12-5", image=[])
    pq.write_table(pa.Table.from_pylist([row | {"image": ["x"]}, row])[1:], folder / "39Krelease.parquet")
    _, (found,) = made("virl39k", folder, tmp_path / "out")
    assert (found.id, found.images, found.answer, found.grader) == ("MMK12-5", [], "4", "math")
    assert "$$AB \\perp CD$$" in found.question


def test_leftovers_of_a_file_manager_are_no_images_and_no_rejections(tmp_path):
    folder = write_virl(tmp_path / "virl", rows=3, irregular=False)
    with zipfile.ZipFile(folder / "images.zip", "a") as archive:
        archive.writestr("__MACOSX/images/._Processed-00000-0.jpg", b"\0\5\x16\7")
        archive.writestr("images/.DS_Store", b"\0\0\0\1Bud1")
    manifest, rows = made("virl39k", folder, tmp_path / "out")
    assert manifest.rejected == {} and len(rows) == 3


# Paths and bytes of your own rows


@pytest.mark.parametrize("spelled", ["{folder}/img/a.png", "file://{folder}/img/a.png", "{folder}/./img//a.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_absolute_paths_inside_the_folder_are_read(tmp_path, spelled, packed):
    folder = tmp_path / "set"
    name = spelled.format(folder=folder)
    write_lines(folder / "rows.jsonl", [{"question": "q", "answer": "red", "images": [name]}])
    if packed:
        with zipfile.ZipFile(folder / "img.zip", "w") as archive:
            archive.writestr("img/a.png", picture())
    else:
        write_files(folder, {"img/a.png": picture()})
    _, (row,) = made("jsonl", folder, tmp_path / "out")
    assert row.images[0].bytes == picture()


def test_absolute_paths_are_read_through_a_link_to_the_folder(tmp_path):
    write_files(tmp_path / "set", {"a.png": picture()})
    (tmp_path / "link").symlink_to(tmp_path / "set")
    for given, named in (("link", "set"), ("set", "link"), ("link", "link")):
        line = {"question": "q", "answer": "red", "images": [str(tmp_path / named / "a.png")]}
        write_lines(tmp_path / "set" / "rows.jsonl", [line])
        _, (row,) = made("jsonl", tmp_path / given / "rows.jsonl", tmp_path / f"out-{given}-{named}")
        assert row.images[0].bytes == picture()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/passwd.png", "is an absolute path outside of"),
        ("{folder}/../secret.png", "leads out of the folder of the images"),
        ("{folder}-other/a.png", "is an absolute path outside of"),
        ("{folder}/link.png", "leads out of the folder of the images"),
        ("https://example.org/a.png", "is a web address: fetch the images"),
        ("s3://bucket/a.png", "is a web address: fetch the images"),
        ("{folder}/nowhere.png", "no image"),
    ],
)
def test_paths_that_are_not_read_are_refused_with_true_words(tmp_path, name, words):
    folder = tmp_path / "set"
    write_files(tmp_path, {"secret.png": picture(), "set-other/a.png": picture()})
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    line = {"id": "r1", "question": "q", "answer": "red", "images": [name.format(folder=folder)]}
    write_lines(folder / "rows.jsonl", [line])
    with pytest.raises(DataError) as caught:
        prepare("jsonl", tmp_path / "out", options={"path": str(folder / "rows.jsonl")})
    assert words in str(caught.value) and "(id 'r1')" in str(caught.value)


def test_columns_of_bytes_structs_and_lists_in_parquet_are_read(tmp_path):
    options = pa.struct([(letter, pa.string()) for letter in "ABCD"])
    table = pa.table(
        {
            "question": ["one", "two", "three"],
            "image": pa.array([picture(), None, picture((1, 1, 1))], pa.binary()),
            "choices": pa.array([{"A": "cat", "B": "dog"}, None, {"A": "x", "B": "y", "C": "z"}], options),
            "answer": pa.array([["B"], ["5"], ["z"]], pa.list_(pa.string())),
        }
    )
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "rows.parquet")
    _, rows = made("jsonl", tmp_path / "set", tmp_path / "out", columns="images=image,options=choices")
    assert [(row.answer, row.grader, len(row.images), row.options) for row in rows] == [
        ("B", "choice", 1, ["cat", "dog"]), ("5", "math", 0, []), ("z", "choice", 1, ["x", "y", "z"]),
    ]  # fmt: skip


def test_rows_as_reinforcement_trainers_write_them_are_read_by_their_inner_columns(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "<image> How many?"}], "images": [{"bytes": picture(), "path": None}],
         "reward_model": {"style": "rule", "ground_truth": "4"}, "extra_info": {"index": 3, "split": "train"}},
    ]  # fmt: skip
    (tmp_path / "set").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "train.parquet")
    columns = "question=prompt,answer=reward_model.ground_truth,id=extra_info.index"
    _, (row,) = made("jsonl", tmp_path / "set", tmp_path / "out", columns=columns)
    assert (row.id, row.question, row.answer, len(row.images)) == ("3", "<image> How many?", "4", 1)


@pytest.mark.parametrize("source", ["comt", "virl39k"])
def test_records_of_another_layout_are_sent_to_jsonl(tmp_path, source):
    write_lines(tmp_path / "set" / "rows.jsonl", [{"id": "r1", "problem": "q", "solution": "5"}])
    with pytest.raises(DataError, match="the record's fields are id, problem, solution") as caught:
        prepare(source, tmp_path / "out", options={"path": str(tmp_path / "set")})
    assert "`covt data prepare jsonl` reads records with other fields" in caught.value.remedy


def test_images_under_another_name_are_not_lost_without_a_word(tmp_path):
    write_files(tmp_path, {"a.png": picture()})
    rows = write_lines(tmp_path / "rows.jsonl", [{"question": "q", "answer": "5", "image": "a.png"}])
    with pytest.raises(DataError, match="no 'images', but 'image': read it with columns=images=image, or leave it out"):
        prepare("jsonl", tmp_path / "out", options={"path": str(rows)})
    _, (row,) = made("jsonl", rows, tmp_path / "one", columns="images=image")
    assert len(row.images) == 1
    _, (row,) = made("jsonl", rows, tmp_path / "two", columns="images=images")
    assert row.images == []


def test_a_record_that_cannot_be_parsed_is_named_by_its_id(tmp_path):
    rows = write_lines(tmp_path / "rows.jsonl", [{"id": "r7", "question": "q", "answer": {"x": 1}}])
    with pytest.raises(DataError, match=r"rows\.jsonl:1 \(id 'r7'\) wrong_type"):
        prepare("jsonl", tmp_path / "out", options={"path": str(rows)})


def test_a_rejection_names_the_column_of_the_record(tmp_path):
    lines = [{"problem": "q", "solution": None}, {"problem": 3.5, "solution": {"x": 1}}, {"problem": "q", "rate": 7}]
    write_lines(tmp_path / "rows.jsonl", [line | {"solution": line.get("solution", "5")} for line in lines])
    columns = "question=problem,answer=solution,pass_rate=rate"
    with pytest.raises(DataError) as caught:
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "rows.jsonl"), "columns": columns})
    for words in ("solution is None", "solution = {'x': 1} is neither text nor boxes", "rate = 7 is not a share"):
        assert words in str(caught.value)


def test_steps_and_metadata_may_be_json_text(tmp_path):
    line = {"question": "q", "answer": "5", "steps": '[{"type": "text", "text": "So."}]', "metadata": '{"level": 2}'}
    write_lines(tmp_path / "rows.jsonl", [line])
    _, (row,) = made("jsonl", tmp_path / "rows.jsonl", tmp_path / "out")
    assert (row.steps[0].text, row.meta) == ("So.", {"level": 2})


# Files of another kind


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", b"question,answer\nq,5\n", r"rows\.csv is a \.csv file"),
        ("rows.tsv", b"question\tanswer\n", r"is a \.tsv file"),
        ("rows.jsonl.gz", b"\x1f\x8b", r"is a \.gz file"),
        ("rows.zip", b"PK", r"is a \.zip file"),
        ("rows.json", b'[{"question": "q", "answer": "5"}]', "one JSON array, not an object per line"),
        ("rows.json", b'\xef\xbb\xbf\n [\n{"question": "q"}\n]', "one JSON array"),
        ("rows.json", b'{\n  "question": "q",\n  "answer": "5"\n}\n', "one JSON object over several lines"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_a_remedy(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / name)})
    assert "jsonl" in caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_utf_16_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes('{"question": "q", "answer": "5"}\n'.encode("utf-16"))
    with pytest.raises(DataError, match="looks like UTF-16, save it as UTF-8"):
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "rows.jsonl")})


def test_json_lines_with_another_suffix_are_read(tmp_path):
    write_lines(tmp_path / "rows.json", [{"question": "q", "answer": "5"}])
    _, (row,) = made("jsonl", tmp_path / "rows.json", tmp_path / "out")
    assert row.answer == "5"


def test_an_empty_parquet_file_and_an_empty_split_are_named(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"question": pa.array([], pa.string()), "answer": pa.array([], pa.string())}), out)
    write_files(tmp_path / "set", {"rows.parquet": out.getvalue()})
    with pytest.raises(DataError, match=r"rows\.parquet of train has no records"):
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "set")})
    write_files(tmp_path / "set", {"rows.parquet": b""})
    with pytest.raises(DataError, match=r"rows\.parquet of train has no records"):
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "set")})
    write_files(tmp_path / "two", {"test.jsonl": b"", "train.jsonl": b'{"question": "q", "answer": "5"}\n'})
    with pytest.raises(DataError, match=r"test\.jsonl of test has no records"):
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "two")})
    assert not (tmp_path / "out").exists()


# Golds of a whole set


def test_bad_golds_of_all_splits_are_reported_at_once(tmp_path):
    lines = [{"id": f"r{n}", "question": f"q{n}", "answer": "???" if n < 2 else "5"} for n in range(4)]
    write_lines(tmp_path / "set" / "test.jsonl", lines)
    write_lines(tmp_path / "set" / "train.jsonl", [line | {"id": line["id"] + "t"} for line in lines])
    options = {"path": str(tmp_path / "set"), "duplicates": "keep"}
    with pytest.raises(DataError, match="4 gold answers cannot be read") as caught:
        prepare("jsonl", tmp_path / "out", options=options | {"on_bad_gold": "error"})
    for place in ("test.jsonl:1 (id 'r0')", "test.jsonl:2 (id 'r1')", "train.jsonl:1 (id 'r0t')", "(id 'r1t')"):
        assert place in str(caught.value)
    assert "on_bad_gold=reject" in caught.value.remedy and not (tmp_path / "out").exists()
    manifest = prepare("jsonl", tmp_path / "out", options=options | {"on_bad_gold": "reject", "max_rejected": 0.5})
    assert manifest.rejected == {"bad_gold": 4}
    assert {split: count.rows for split, count in manifest.counts.items()} == {"test": 2, "train": 2}


def test_bad_golds_are_listed_apart_from_other_rejections(tmp_path):
    lines = [{"id": f"r{n}", "question": "" if n < 30 else f"q{n}", "answer": "???"} for n in range(33)]
    write_lines(tmp_path / "rows.jsonl", lines)
    with pytest.raises(DataError, match=r"33 of 33 records .*\(empty_question 30, bad_gold 3\)") as caught:
        prepare("jsonl", tmp_path / "out", options={"path": str(tmp_path / "rows.jsonl")})
    assert all(f"(id 'r{n}') bad_gold" in str(caught.value) for n in (30, 31, 32))
    assert str(caught.value).count("empty_question:") == 10 and "and 20 more" in str(caught.value)


def test_on_bad_gold_error_lets_good_golds_and_other_rejections_pass(tmp_path):
    lines = [{"question": f"q{n}", "answer": "5"} for n in range(9)] + [{"question": "q9", "answer": ""}]
    write_lines(tmp_path / "rows.jsonl", lines)
    manifest = prepare(
        "jsonl", tmp_path / "out", options={"path": str(tmp_path / "rows.jsonl"), "on_bad_gold": "error"}
    )
    assert manifest.rejected == {"empty_answer": 1}
