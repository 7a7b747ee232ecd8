"""The sources on their published layouts, with every irregularity known of them, and on the real rows at hand."""

import io
import json
from collections import Counter

import pytest
from layouts import (
    comt_line,
    numbered,
    picture,
    read_rejections,
    virl_irregular,
    virl_row,
    write_comt,
    write_files,
    write_virl,
    write_zebra,
    zebra_irregular,
)
from PIL import Image as PillowImage

from covt_data.data_errors import DataError, DataFileError
from covt_data.ingest.prepare import prepare
from covt_data.records.gold_fields import strip_boxed
from covt_data.records.written_options import find_options
from covt_data.rejects import Rejected
from covt_data.store.prepared_set import PreparedSet


def made(source, path, out, **options):
    manifest = prepare(source, out, options={"path": str(path), **options})
    prepared = PreparedSet(out)
    return manifest, {split: {row.id: row for row in prepared.rows(split)} for split in prepared.splits}


def rejected(out):
    return Counter(line["reason"] for line in read_rejections(out / "rejected.jsonl"))


# CoMT


@pytest.mark.parametrize("packed", [True, False])
def test_comt_is_read_from_its_archive_and_from_its_folder(tmp_path, packed):
    manifest, rows = made("comt", write_comt(tmp_path / "comt", packed=packed), tmp_path / "out")
    assert {split: count.rows for split, count in manifest.counts.items()} == {"test": 4, "train": 8}
    row = rows["train"]["comt-train-000001"]
    assert row.question.startswith("<image>Question 0")
    assert (row.answer, row.grader, row.options) == ("70°", "choice", ["70°", "80°", "90°", "0°"])
    assert [step.type for step in row.steps] == ["text", "latent", "latent", "text", "text"]
    assert row.steps[-1].text == "The final answer is: \\boxed{70°}"
    assert row.category == "creation" and row.source == "comt"
    assert row.images[0].path == "images_comt/creation/10000.png"
    assert row.images[0].bytes == picture(numbered(0)) == row.steps[2].images[0].bytes
    assert row.steps[1].images[0].bytes == picture(numbered(7), (32, 48))
    assert manifest.counts["train"].categories == dict.fromkeys(("creation", "deletion", "selection", "update"), 2)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_archive_and_the_folder_give_the_same_rows(tmp_path):
    _, packed = made("comt", write_comt(tmp_path / "a"), tmp_path / "one")
    _, loose = made("comt", write_comt(tmp_path / "b", packed=False), tmp_path / "two")
    assert packed == loose


COMT_BAD = {
    "not_json": b'{"text_input": ',
    "not_utf8": b'{"text_input": "\xff"}',
    "not_an_object": b"[1, 2]",
    "empty_question": comt_line(0, text_input=" "),
    "empty_answer": comt_line(0, original_final_answer=""),
    "unknown_step_type": comt_line(0, sequence_plan=[{"type": "audio", "content": "x"}]),
    "missing_field": comt_line(0, sequence_plan=None),
    "wrong_type": comt_line(0, image_input=[3]),
    "helper_image_missing": comt_line(0, sequence_plan=[{"type": "latent", "helper_image": "images_comt/no.png"}]),
    "image_missing": comt_line(0, image_input=["images_comt/creation/no.png"]),
    "image_count": comt_line(0, text_input="<image><image>?"),
    "image_outside": comt_line(0, image_input=["images_comt/../../../etc/passwd.png"]),
}


@pytest.mark.parametrize("reason", COMT_BAD)
def test_each_fault_of_a_comt_line_has_its_reason_with_file_and_line(tmp_path, reason):
    folder = write_comt(tmp_path / "comt", extra=[COMT_BAD[reason]], packed=False)
    manifest, rows = made("comt", folder, tmp_path / "out", max_rejected=0.2)
    assert manifest.rejected == {reason: 1}
    (line,) = read_rejections(tmp_path / "out" / "rejected.jsonl")
    assert (line["file"], line["line"], line["reason"]) == ("TRAIN.jsonl", 9, reason)
    assert line["detail"]
    assert len(rows["train"]) == 8


def test_too_many_rejections_stop_the_run_and_leave_the_log(tmp_path):
    folder = write_comt(tmp_path / "comt", extra=[b"{"] * 4, packed=False)
    with pytest.raises(DataError, match=r"4 of 12 records of train were rejected \(not_json 4\)") as caught:
        prepare("comt", tmp_path / "out", options={"path": str(folder)})
    assert "max_rejected" in caught.value.remedy
    assert not (tmp_path / "out").exists()
    manifest = prepare("comt", tmp_path / "out", options={"path": str(folder), "max_rejected": 0.5})
    assert manifest.rejected == {"not_json": 4}, "counted once, though the first run saw them too"
    assert rejected(tmp_path / "out") == {"not_json": 4}


# ViRL39K


def test_virl39k_rows_and_irregularities(tmp_path):
    manifest, rows = made("virl39k", write_virl(tmp_path / "virl"), tmp_path / "out", max_rejected=0.3)
    odd = virl_irregular()
    reasons = {"answer_braces", "empty_answer", "image_count", "image_missing", "duplicate_id"}
    assert manifest.rejected == dict.fromkeys(sorted(reasons), 1)
    train = rows["train"]
    assert len(train) == 10 + len(odd) - len(reasons)
    plain = train["Processed-00004"]
    assert (plain.question, plain.answer, plain.grader) == ("<image>\nHow many dots has figure 4?", "4", "math")
    assert plain.meta == {"origin": "Processed", "pass_rate": 1.0, "PassRate_32BTrained": 1.0, "PassRate_7BBase": 0.5}
    assert train["Processed-00100"].images == [] and train["Processed-00101"].images == []
    assert len(train["Processed-00102"].images) == 2 and train["Processed-00102"].grader == "choice"
    assert train["Processed-00103"].question == "<image>How many dots?"
    assert len(train["Processed-00104"].images[0].bytes) > 100
    assert train["Processed-00105"].meta == {"origin": "DeepScaleR"}
    assert train["Processed-00106"].answer == "\\frac{1}{2}"
    assert train["Processed-00107"].answer == "12"


@pytest.mark.parametrize(
    ("options", "kept", "filtered"),
    [
        ({"categories": "Spatial Reasoning"}, lambda n: n % 2 == 1, "categories"),
        ({"origins": "DeepScaleR"}, lambda n: n % 3 == 0, "origins"),
        ({"min_pass_rate": 0.25, "max_pass_rate": 0.75}, lambda n: n % 5 in (1, 2, 3), "pass_rate"),
        ({"rated_by": "7b", "min_pass_rate": 0.0}, lambda n: n % 2 == 0, "unrated"),
        ({"rated_by": "7b", "min_pass_rate": 0.5, "unrated": "keep"}, lambda n: n % 2 or n % 9 >= 4, "pass_rate"),
        ({"limit": 3}, lambda n: n < 3, None),
    ],
)
def test_filters_keep_what_they_say(tmp_path, options, kept, filtered):
    manifest, rows = made("virl39k", write_virl(tmp_path / "virl", 20, irregular=False), tmp_path / "out", **options)
    expected = [f"Processed-{n:05d}" for n in range(20) if kept(n)]
    assert list(rows["train"]) == expected
    assert manifest.filtered == ({filtered: 20 - len(expected)} if filtered else {})
    assert manifest.rejected == {}


def test_rows_are_filtered_by_pictures_and_tokens(tmp_path):
    folder = tmp_path / "mine"
    lines = [{"question": "word " * n, "answer": "1", "images": [f"{n}.png"] if n else []} for n in range(6)]
    lines[0]["question"] = "no picture"
    write_files(folder, {f"{n}.png": picture(size=(20 * n, 20)) for n in range(1, 6)})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def ids(**options):
        out = tmp_path / "-".join(f"{key}-{value}" for key, value in options.items())
        counter = (lambda text: len(text.split())) if "tokenizer" in options else None
        prepare("jsonl", out, options={"path": str(folder), **options}, count_tokens=counter)
        return [int(row.id[-1]) - 1 for row in PreparedSet(out).rows("train")]

    assert ids(text_only="drop") == [1, 2, 3, 4, 5]
    assert ids(text_only="only") == [0]
    assert ids(min_pixels=800, max_pixels=1600) == [0, 2, 3, 4]
    assert ids(tokenizer="by-words", min_tokens=4, max_tokens=5) == [3, 4]
    with pytest.raises(DataError, match="need tokenizer"):
        ids(max_tokens=5)


# Zebra-CoT


def test_zebra_cot_rows_and_irregularities(tmp_path):
    manifest, rows = made("zebra-cot", write_zebra(tmp_path / "zebra"), tmp_path / "out", max_rejected=0.5)
    odd = zebra_irregular()
    reasons = {"helper_image_missing", "image_missing", "empty_answer", "empty_step", "image_truncated"}
    assert manifest.rejected == dict.fromkeys(sorted(reasons), 1)
    train = rows["train"]
    assert len(train) == 12 + len(odd) - len(reasons)
    places = {line["file"] for line in read_rejections(tmp_path / "out" / "rejected.jsonl")}
    assert places == {"2D Visual Reasoning - Visual Jigsaw/train-00000-of-00001.parquet"}
    row = train["zebra-2d-visual-reasoning-visual-jigsaw-train-00000-of-00001-000001"]
    assert row.question == "Puzzle 0: <image> Which piece fits?"
    assert row.category == "2D Visual Reasoning - Visual Jigsaw"
    assert [step.type for step in row.steps] == ["text", "latent", "text", "latent", "text", "text"]
    assert [len(step.images or []) for step in row.steps] == [0, 2, 0, 1, 0, 0]
    assert row.steps[3].images[0].bytes == row.images[0].bytes == picture(numbered(0))
    assert (row.steps[0].text, row.steps[-1].text) == ("THOUGHT 0: I look.", "\\boxed{C}")
    by_number = {int(id_[-6:]): row for id_, row in train.items() if "jigsaw" in id_}
    assert by_number[7].question.startswith("<image>Puzzle 100: <image>") and len(by_number[7].images) == 2
    assert by_number[8].images == [] and by_number[8].steps[1].images
    assert all(step.type == "text" for step in by_number[9].steps)
    assert manifest.converted == {"transparency": 2}, "the picture is in the question and in the trace"
    with PillowImage.open(io.BytesIO(by_number[10].images[0].bytes)) as shown:
        assert shown.mode == "RGB" and shown.getpixel((5, 5)) == (255, 255, 255)


# Your own rows


def test_jsonl_reads_the_schema_and_mapped_columns(tmp_path):
    folder = tmp_path / "mine"
    write_files(folder, {"a.png": picture(), "b.png": picture((1, 2, 3))})
    own = {
        "id": "r1", "question": "<image>How many?", "images": ["a.png"], "answer": "3", "category": "counting",
        "steps": [{"type": "latent", "images": ["b.png"]}, {"type": "text", "text": "\\boxed{3}"}],
        "metadata": {"level": 2}, "pass_rate": 0.5,
    }  # fmt: skip
    mapped = {"pid": 7, "problem": "See <image1> here", "gold": "(B)", "img": "a.png", "choices": ["x", "y"]}
    (folder / "own.jsonl").write_text(json.dumps(own) + "\n")
    _, rows = made("jsonl", folder / "own.jsonl", tmp_path / "one")
    row = rows["train"]["r1"]
    assert (row.answer, row.grader, row.meta) == ("3", "math", {"level": 2, "pass_rate": 0.5})
    assert row.steps[0].images[0].bytes == picture((1, 2, 3))
    (folder / "own.jsonl").write_text(json.dumps(mapped) + "\n")
    columns = "id=pid,question=problem,answer=gold,images=img,options=choices"
    _, rows = made("jsonl", folder, tmp_path / "two", columns=columns, name="mine", split="test")
    row = rows["test"]["7"]
    assert (row.source, row.question, row.options, row.grader) == ("mine", "See <image> here", ["x", "y"], "choice")


def test_exact_and_similar_rows_are_dropped(tmp_path):
    folder = tmp_path / "mine"
    big = PillowImage.radial_gradient("L").convert("RGB")
    for name, kind, options in (("a.png", "PNG", {}), ("b.jpg", "JPEG", {"quality": 60}), ("c.png", "PNG", {})):
        out = io.BytesIO()
        (big if name != "c.png" else big.rotate(90).crop((0, 60, 200, 200))).save(out, kind, **options)
        write_files(folder, {name: out.getvalue()})
    lines = [{"question": "How many rings?", "answer": "4", "images": [name]} for name in ("a.png", "a.png", "b.jpg")]
    lines += [{"question": " how  many RINGS?", "answer": "4", "images": ["a.png"]}]
    lines += [{"question": "How many rings?", "answer": "4", "images": ["c.png"]}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for duplicates, kept in (("keep", 5), ("drop", 3), ("similar", 2)):
        manifest, rows = made("jsonl", folder, tmp_path / duplicates, duplicates=duplicates)
        assert len(rows["train"]) == kept
        assert manifest.filtered == ({"duplicates": 5 - kept} if kept < 5 else {})


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{3}", "3"),
        ("so \\boxed{1} or \\boxed{\\frac{1}{2}} .", "\\frac{1}{2}"),
        ("plain", "plain"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
    ],
)
def test_the_boxed_answer_is_taken_out(text, content):
    assert strip_boxed(text) == content


@pytest.mark.parametrize("text", ["\\boxed{", "\\boxed{\\frac{1}{2}", "\\boxed{ }", " "])
def test_a_broken_box_is_rejected(text):
    with pytest.raises(Rejected):
        strip_boxed(text)


def test_options_are_found_at_the_end_of_a_question():
    assert find_options("Return A, B or C. \nWalk.\nA. Yes. \nB. No, it falls. \nC. Neither. ") == (
        "Yes.", "No, it falls.", "Neither.",
    )  # fmt: skip
    assert find_options("Which? (A) 70° (B) 80°") == ("70°", "80°")
    assert find_options("Vitamin A. is one; another? (C) no") == () == find_options("no options")


# Places


def test_a_path_that_is_nowhere_and_a_hub_out_of_reach_are_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataFileError, match="shuai22/comt is neither a path here nor in the cache") as caught:
        prepare("comt", tmp_path / "out")
    assert "--source" in caught.value.remedy and "\n" not in str(caught.value)
    with pytest.raises(DataFileError, match="does not exist"):
        prepare("comt", tmp_path / "out", options={"path": "/nowhere/at/all"})
    with pytest.raises(DataFileError, match="needs a path"):
        prepare("jsonl", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataFileError, match=r"has no \.jsonl files"):
        prepare("comt", tmp_path / "out", options={"path": str(tmp_path / "empty")})


def test_a_damaged_parquet_file_and_archive_are_named(tmp_path):
    folder = write_virl(tmp_path / "virl")
    whole = (folder / "images.zip").read_bytes()
    (folder / "images.zip").write_bytes(whole[:-30])
    with pytest.raises(DataFileError, match=r"images.zip cannot be unpacked"):
        prepare("virl39k", tmp_path / "out", options={"path": str(folder)})
    (folder / "images.zip").write_bytes(whole)
    table = folder / "39Krelease.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(DataFileError, match=r"39Krelease.parquet"):
        prepare("virl39k", tmp_path / "out", options={"path": str(folder)})


# Real rows


@pytest.mark.shared_data
def test_the_real_interleaved_rows_go_through_comt(shared_data, tmp_path):
    manifest, rows = made("comt", shared_data / "interleaved_comt_like", tmp_path / "out")
    assert (manifest.counts["train"].rows, manifest.rejected) == (8, {})
    for row in rows["train"].values():
        assert row.grader == "choice" and row.answer in "ABCD"
        moves = row.question.count(" go ") if row.id.startswith("mvot-fl") else len(row.steps) // 2
        assert [step.type for step in row.steps] == ["text", "latent"] * moves + ["text"]
        assert len(row.options) == (3 if row.id.startswith("mvot-fl") else 0), "the maze's options are in its picture"
        assert "\\boxed{" in row.steps[-1].text


@pytest.mark.shared_data
def test_real_verifiable_questions_go_through_jsonl_and_virl39k(shared_data, tmp_path):
    maths = shared_data / "math_vision_testmini"
    manifest, rows = made("jsonl", maths, tmp_path / "a", columns="images=image,category=subject", tags="front")
    assert (manifest.counts["train"].rows, manifest.rejected) == (195, {})
    lines = [json.loads(line) for line in (maths / "rows.jsonl").read_text().splitlines()]
    entries = [
        virl_row(0, question=line["question"], answer=f"\\boxed{{{line['answer']}}}", qid=line["id"],
                 image=[line["image"]], category=line["subject"])
        for line in lines
        if "<image" not in line["question"].replace("<image1>", "")
    ]  # fmt: skip
    folder = tmp_path / "virl"
    folder.mkdir()
    (folder / "images").symlink_to(maths / "images")
    for entry in entries:
        entry["question"] = entry["question"].replace("<image1>", "<image>")
    (folder / "rows.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(DataError, match="image_outside"):
        prepare("virl39k", tmp_path / "b", options={"path": str(folder)})
    (folder / "images").unlink()
    write_files(folder, {entry["image"][0]: (maths / entry["image"][0]).read_bytes() for entry in entries})
    _, virl = made("virl39k", folder, tmp_path / "c")
    for id_, row in virl["train"].items():
        assert (row.answer, row.images[0].bytes) == (rows["train"][id_].answer, rows["train"][id_].images[0].bytes)
    for name, columns, count in (
        ("tabmwp", "images=image,options=choices", 150),
        ("geometry3k_sketchpad", "question=problem_text,images=image,options=choices", 28),
        ("blink_jigsaw", "question=query", 85),
    ):
        manifest, _ = made("jsonl", shared_data / name, tmp_path / name, columns=columns)
        assert (manifest.counts["train"].rows, manifest.rejected) == (count, {})
