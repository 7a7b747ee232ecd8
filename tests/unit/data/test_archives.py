"""Hostile and damaged archives: every kind of member has its reason, and nothing is written outside the target."""

import io
import random
import struct
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from layouts import comt_line, damaged, dump, picture, read_rejections, write_tar

from covt_data.data_errors import DataFileError
from covt_data.images.archives import ArchiveLimits, extract
from covt_data.ingest.prepare import prepare
from covt_data.rejects import Reason

LIMITS = ArchiveLimits(max_member=1 << 20)


def tar_with(entries, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info, data in entries:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


PNG = picture()
TAR_MEMBERS = [
    (("images/ok.png", PNG), None),
    (("../evil.png", PNG), Reason.ARCHIVE_OUTSIDE),
    (("images/../../evil.png", PNG), Reason.ARCHIVE_OUTSIDE),
    (("/evil.png", PNG), Reason.ARCHIVE_OUTSIDE),
    (("..\\evil.png", PNG), Reason.ARCHIVE_OUTSIDE),
    (special("link.png", tarfile.SYMTYPE, "/etc/passwd"), Reason.ARCHIVE_LINK),
    (special("inside.png", tarfile.SYMTYPE, "images/ok.png"), Reason.ARCHIVE_LINK),
    (special("hard.png", tarfile.LNKTYPE, "images/ok.png"), Reason.ARCHIVE_LINK),
    (special("null.png", tarfile.CHRTYPE), Reason.ARCHIVE_DEVICE),
    (special("disk.png", tarfile.BLKTYPE), Reason.ARCHIVE_DEVICE),
    (special("pipe.png", tarfile.FIFOTYPE), Reason.ARCHIVE_DEVICE),
    (("big.png", bytes(2 << 20)), Reason.ARCHIVE_BOMB),
    (("images/ok.png", picture((1, 1, 1))), Reason.ARCHIVE_DUPLICATE),
    (("images/ok.png/below.png", PNG), Reason.ARCHIVE_DUPLICATE),
    (("x" * 300 + ".png", PNG), Reason.ARCHIVE_BAD_NAME),
    (("bad\udcff.png", PNG), Reason.ARCHIVE_BAD_NAME),
    (("run.sh", b"rm -rf /"), Reason.ARCHIVE_NOT_AN_IMAGE),
    (("__MACOSX/._ok.png", b"junk"), None),
]


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_every_kind_of_hostile_tar_member_is_left_out_with_its_reason(tmp_path):
    archive = tar_with([entry for entry, _ in TAR_MEMBERS], tmp_path / "a.tar.gz")
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    found = {(r.line, r.reason) for r in extract(archive, target, LIMITS)}
    assert found == {(n, reason) for n, (_, reason) in enumerate(TAR_MEMBERS, 1) if reason}
    assert written(tmp_path) == {"a.tar.gz", "deep/target/images/ok.png"}
    assert (target / "images/ok.png").read_bytes() == PNG


def zip_info(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


ZIP_MEMBERS = [
    (zip_info("images/ok.png"), PNG, None),
    (zip_info("../evil.png"), PNG, Reason.ARCHIVE_OUTSIDE),
    (zip_info("/evil.png"), PNG, Reason.ARCHIVE_OUTSIDE),
    (zip_info("a\\..\\..\\evil.png"), PNG, Reason.ARCHIVE_OUTSIDE),
    (zip_info("link.png", 0o120777), b"/etc/passwd", Reason.ARCHIVE_LINK),
    (zip_info("device.png", 0o020666), b"", Reason.ARCHIVE_DEVICE),
    (zip_info("bomb.png"), bytes(8 << 20), Reason.ARCHIVE_BOMB),
    (zip_info("images/ok.png"), picture((1, 1, 1)), Reason.ARCHIVE_DUPLICATE),
    (zip_info("page.html"), b"<html>", Reason.ARCHIVE_NOT_AN_IMAGE),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_every_kind_of_hostile_zip_member_is_left_out_with_its_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for info, data, _ in ZIP_MEMBERS:
            archive.writestr(info, data)
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    found = {(r.line, r.reason) for r in extract(tmp_path / "a.zip", target, LIMITS)}
    assert found == {(n, reason) for n, (*_, reason) in enumerate(ZIP_MEMBERS, 1) if reason}
    assert written(tmp_path) == {"a.zip", "deep/target/images/ok.png"}


def test_a_zip_that_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zip_info("bomb.png"), bytes(4 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 4 << 20), struct.pack("<I", 900)))
    (rejection,) = extract(path, tmp_path / "target", LIMITS)
    assert rejection.reason is Reason.ARCHIVE_UNREADABLE
    assert list(tmp_path.rglob("*.png")) == []


def test_an_archive_that_unpacks_to_too_much_or_is_cut_short_stops_the_run(tmp_path):
    archive = tar_with([(f"{n}.png", bytes(1000)) for n in range(50)], tmp_path / "a.tar.gz")
    for limits in (ArchiveLimits(max_total=20_000), ArchiveLimits(max_members=10)):
        with pytest.raises(DataFileError, match="unpacks to more than"):
            extract(archive, tmp_path / "t", limits)
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(DataFileError, match="cannot be unpacked") as caught:
        extract(archive, tmp_path / "u", LIMITS)
    assert caught.value.remedy == "fetch the archive again"


def test_hostile_members_are_listed_and_the_good_rows_are_prepared(tmp_path):
    line = comt_line(1)
    main = line["image_input"][0]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "TRAIN.jsonl").write_bytes(dump(line) + b"\n" + dump(comt_line(2, image_input=["evil.png"])) + b"\n")
    members = [(main, PNG), (main.replace(".png", "_1.png"), PNG), *(entry for entry, _ in TAR_MEMBERS[1:9])]
    tar_with(members, folder / "comt.tar.gz")
    manifest = prepare("comt", tmp_path / "out", options={"path": str(folder), "max_rejected": 0.5})
    assert manifest.rejected == {"archive_device": 1, "archive_link": 3, "archive_outside": 4, "image_missing": 1}
    lines = read_rejections(tmp_path / "out" / "rejected.jsonl")
    assert [(entry["file"], entry["line"]) for entry in lines][:2] == [("comt.tar.gz", 3), ("comt.tar.gz", 4)]
    assert written(tmp_path / "out") == {"manifest.json", "rejected.jsonl", "train/part-00000.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_damaged_archives_never_crash_nor_leave_the_target(tmp_path, kind):
    path, target = tmp_path / "box" / f"a.{kind}", tmp_path / "box" / "target"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for info, data, _ in ZIP_MEMBERS[:6]:
                archive.writestr(info, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w", format=tarfile.GNU_FORMAT) as archive:
            for (info, data), reason in TAR_MEMBERS:
                if reason is not Reason.ARCHIVE_BOMB:
                    info = tarfile.TarInfo(info) if isinstance(info, str) else info
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    whole, random_, seen = path.read_bytes(), random.Random(1), Counter()
    for number in range(300):
        path.write_bytes(damaged(whole, random_))
        each = target / str(number)
        try:
            seen.update(rejection.reason for rejection in extract(path, each, LIMITS))
        except DataFileError as error:
            assert error.remedy
            seen["error"] += 1
    assert {place.name for place in tmp_path.iterdir()} == {"box"}
    assert {place.name for place in path.parent.iterdir()} <= {path.name, "target"}
    assert all(
        place.suffix in (".png",) and not place.is_symlink() for place in target.rglob("*") if not place.is_dir()
    )
    assert seen["error"] > 20 and seen[Reason.ARCHIVE_OUTSIDE] > 20, "the damage reaches both kinds of outcome"


def test_a_tar_without_compression_keeps_few_headers(tmp_path):
    """Reading the index of a large archive doesn't hold it in memory."""
    write_tar(tmp_path / "a.tar", {f"{n}.png": PNG for n in range(200)}, "w")
    assert extract(tmp_path / "a.tar", tmp_path / "t", LIMITS) == []
    assert len(written(tmp_path / "t")) == 200
