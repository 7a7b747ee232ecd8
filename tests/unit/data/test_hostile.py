"""Names of images, lines and fields that mean harm or are merely broken: every kind has its reason."""

import json
import os
import random
from pathlib import Path

import pytest
from layouts import comt_line, damaged, dump, picture, write_files

from covt_data.data_errors import DataError
from covt_data.images.image_folder import ImageFolder
from covt_data.ingest.prepare import prepare
from covt_data.ingest.record_files import MAX_LINE, read_records
from covt_data.rejects import Reason, Rejected

# Names of images


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", Reason.IMAGE_OUTSIDE),
        ("a/../../secret.png", Reason.IMAGE_OUTSIDE),
        ("/etc/passwd", Reason.IMAGE_OUTSIDE),
        ("..\\secret.png", Reason.IMAGE_OUTSIDE),
        ("C:\\secret.png", Reason.IMAGE_OUTSIDE),
        ("file:///etc/passwd", Reason.IMAGE_OUTSIDE),
        ("https://example.org/a.png", Reason.IMAGE_OUTSIDE),
        ("link.png", Reason.IMAGE_OUTSIDE),
        ("folder_link/secret.png", Reason.IMAGE_OUTSIDE),
        ("pipe.png", Reason.IMAGE_NOT_A_FILE),
        ("folder.png", Reason.IMAGE_NOT_A_FILE),
        ("", Reason.IMAGE_MISSING),
        ("a\0.png", Reason.IMAGE_MISSING),
        ("raw\udcff.png", Reason.IMAGE_MISSING),
        ("nowhere.png", Reason.IMAGE_MISSING),
        ("ok.png/deeper.png", Reason.IMAGE_MISSING),
        ("loop.png", Reason.IMAGE_UNREADABLE),
        ("x" * 5000 + ".png", Reason.IMAGE_UNREADABLE),
        ("large.png", Reason.IMAGE_TOO_LARGE),
    ],
)
def test_a_picture_is_never_read_from_outside(tmp_path, name, reason):
    root = tmp_path / "root"
    write_files(tmp_path, {"root/ok.png": picture(), "secret.png": picture(), "root/large.png": bytes(2000)})
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder_link").symlink_to(tmp_path)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    Path(os.fsdecode(os.fsencode(root) + b"/raw\xff.png")).write_bytes(picture())
    folder = ImageFolder(root)
    assert folder.read("./ok.png", 1000) == picture()
    with pytest.raises(Rejected) as caught:
        folder.read(name, 1000)
    assert caught.value.reason is reason


# Lines


def test_lines_that_are_not_records_have_their_reasons(tmp_path):
    path = tmp_path / "rows.jsonl"
    deep = b"[" * 100_000 + b"]" * 100_000
    lines = [
        b"{}",
        b"\xef\xbb\xbf{}",
        b"",
        b"\xff",
        b"{",
        deep,
        b'"text"',
        b" " * (MAX_LINE + 10) + b"{}",
        b"1" * 9000,
        b"{}",
    ]
    path.write_bytes(b"\n".join(lines))
    found = []
    for record in read_records(path, "rows.jsonl"):
        try:
            record.data()
            found.append((record.line, None))
        except Rejected as error:
            found.append((record.line, error.reason))
    assert found == [
        (1, None), (2, None), (4, Reason.NOT_UTF8), (5, Reason.NOT_JSON), (6, Reason.NOT_JSON),
        (7, Reason.NOT_AN_OBJECT), (8, Reason.LINE_TOO_LONG), (9, Reason.NOT_AN_OBJECT), (10, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": "\ud800"}, "not_utf8"),
        ({"text_input": {"a": 1}}, "wrong_type"),
        ({"text_input": True}, "wrong_type"),
        ({"sequence_plan": "none"}, "wrong_type"),
        ({"sequence_plan": [None]}, "unknown_step_type"),
        ({"image_input": {"bytes": "x"}}, "wrong_type"),
        ({"id": ""}, "bad_row"),
        ({"image_input": "images_comt/\ud800/a.png"}, "image_missing"),
        ({"text_input": "a <image> b <image> c"}, "image_count"),
    ],
)
def test_fields_of_the_wrong_kind_are_rejected_and_the_rest_goes_on(tmp_path, changes, reason):
    good, bad = comt_line(1), comt_line(2) | changes
    names = [name for line in (good, comt_line(2)) for name in line["image_input"]]
    write_files(tmp_path / "in", {n: picture() for name in names for n in (name, name.replace(".png", "_1.png"))})
    data = json.dumps(bad).encode()
    (tmp_path / "in" / "TRAIN.jsonl").write_bytes(data + b"\n" + dump(good) + b"\n")
    manifest = prepare("comt", tmp_path / "out", options={"path": str(tmp_path / "in"), "max_rejected": 0.5})
    assert manifest.rejected == {reason: 1} and manifest.counts["train"].rows == 1


def test_a_set_of_damaged_records_is_prepared_or_refused_in_one_line(tmp_path):
    lines = [dump(comt_line(n, image_input=["images_comt/a.png"])) for n in range(6)]
    random_ = random.Random(3)
    folder = tmp_path / "in"
    write_files(folder, {"images_comt/a.png": picture()})
    for number in range(40):
        (folder / "TRAIN.jsonl").write_bytes(damaged(b"\n".join(lines), random_))
        try:
            prepare("comt", tmp_path / str(number), options={"path": str(folder), "max_rejected": 1.0})
        except DataError as error:
            assert "no record of train is left" in str(error)
