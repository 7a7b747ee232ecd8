"""Input that means harm or is merely broken: every class has its reason code, and nothing is written outside."""

import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from layouts import comt_line, dump, picture, read_rejections, write_files, write_tar
from PIL import Image as PillowImage
from PIL import ImageOps

from covt_data.data_errors import DataError, DataFileError
from covt_data.images.archives import ArchiveLimits, extract
from covt_data.images.image_checks import ImageLimits, check_image
from covt_data.images.image_folder import ImageFolder
from covt_data.ingest.prepare import prepare
from covt_data.ingest.record_files import MAX_LINE, read_records
from covt_data.rejects import Reason, Rejected

LIMITS = ArchiveLimits(max_member=1 << 20)
SMALL = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)


def noise(kind="PNG", size=(64, 48), mode="RGB", **options) -> bytes:
    random_ = np.random.default_rng(0)
    pixels = random_.integers(0, 256, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    PillowImage.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A tiny file whose header claims a huge picture."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


# Pictures

BAD_PICTURES = {
    "empty": ("a.png", b"", Reason.IMAGE_EMPTY),
    "truncated png": ("a.png", noise()[:-2000], Reason.IMAGE_TRUNCATED),
    "truncated jpeg": ("a.jpg", noise("JPEG", quality=95)[:-500], Reason.IMAGE_TRUNCATED),
    "truncated progressive jpeg": ("a.jpg", noise("JPEG", progressive=True)[:-500], Reason.IMAGE_TRUNCATED),
    "truncated gif": ("a.gif", noise("GIF")[:-900], Reason.IMAGE_TRUNCATED),
    "truncated webp": ("a.webp", noise("WEBP")[:-500], Reason.IMAGE_UNREADABLE),
    "text": ("a.png", b"not a picture at all", Reason.IMAGE_UNREADABLE),
    "html error page": ("a.jpg", b"<html><body>404</body></html>", Reason.IMAGE_UNREADABLE),
    "git lfs pointer": ("a.png", b"version https://git-lfs.github.com/spec/v1\n", Reason.IMAGE_UNREADABLE),
    "postscript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Reason.IMAGE_UNREADABLE),
    "truncated tiff": ("a.tiff", noise("TIFF")[:-4000], Reason.IMAGE_TRUNCATED),
    "wrong suffix": ("a.jpg", noise("PNG"), Reason.IMAGE_WRONG_SUFFIX),
    "no picture's suffix": ("a.txt", noise("PNG"), Reason.IMAGE_WRONG_SUFFIX),
    "claims 60000 × 60000": ("a.png", png_claiming(60_000, 60_000), Reason.IMAGE_BOMB),
    "claims 12000 × 12000": ("a.png", png_claiming(12_000, 12_000), Reason.IMAGE_BOMB),
    "over the limit": ("a.png", picture(size=(1100, 1000)), Reason.IMAGE_BOMB),
    "too many bytes": ("a.png", noise() + bytes(1 << 20), Reason.IMAGE_TOO_LARGE),
    "narrow": ("a.png", picture(size=(1000, 2)), Reason.IMAGE_TOO_NARROW),
    "wrong checksum": ("a.png", noise()[:60] + b"\xff" + noise()[61:], Reason.IMAGE_UNREADABLE),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bad_picture_is_rejected_with_its_reason(case):
    name, data, reason = BAD_PICTURES[case]
    with pytest.raises(Rejected) as caught:
        check_image(data, name, SMALL)
    assert caught.value.reason in (reason, *([Reason.IMAGE_TRUNCATED] if case == "wrong checksum" else []))
    assert name in caught.value.detail


def test_a_wrong_suffix_may_be_allowed():
    data = noise("PNG")
    assert check_image(data, "a.jpg", ImageLimits(any_suffix=True)).data == data


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}), ("PNG", "L", {}), ("PNG", "1", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGB", {}),
        ("GIF", "P", {}), ("BMP", "RGB", {}),
    ],
)  # fmt: skip
def test_an_ordinary_picture_is_kept_byte_for_byte(kind, mode, options):
    data = noise(kind, mode=mode, **options)
    checked = check_image(data, f"a.{kind.lower()}", SMALL)
    assert (checked.data, checked.size, checked.conversions) == (data, (64, 48), ())


def opened(data: bytes) -> np.ndarray:
    with PillowImage.open(io.BytesIO(data)) as shown:
        assert (shown.format, shown.mode) == ("PNG", "RGB")
        return np.asarray(shown)


def test_cmyk_becomes_rgb():
    data = noise("JPEG", mode="CMYK")
    checked = check_image(data, "a.jpg", SMALL)
    assert checked.conversions == ("cmyk",)
    with PillowImage.open(io.BytesIO(data)) as original:
        assert np.array_equal(opened(checked.data), np.asarray(original.convert("RGB")))


def test_sixteen_bits_are_scaled_and_not_cut_off():
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    out = io.BytesIO()
    PillowImage.fromarray(values).save(out, "PNG")
    checked = check_image(out.getvalue(), "a.png", SMALL)
    assert checked.conversions == ("16_bit",)
    assert abs(opened(checked.data)[..., 0].astype(int) - values / 257).max() <= 0.5


def test_transparency_is_laid_on_white():
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:10, :, 3] = 255
    out = io.BytesIO()
    PillowImage.fromarray(pixels).save(out, "PNG")
    checked = check_image(out.getvalue(), "a.png", SMALL)
    assert checked.conversions == ("transparency",)
    assert (opened(checked.data)[:10] == 0).all() and (opened(checked.data)[10:] == 255).all()
    flat = io.BytesIO()
    PillowImage.new("P", (20, 20)).save(flat, "PNG", transparency=0)
    assert check_image(flat.getvalue(), "a.png", SMALL).conversions == ("transparency",)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation_is_carried_out(orientation):
    original = PillowImage.fromarray(np.arange(60 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3))
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    original.save(out, "PNG", exif=exif)
    checked = check_image(out.getvalue(), "a.png", SMALL)
    assert checked.conversions == ("exif_rotation",)
    with PillowImage.open(io.BytesIO(out.getvalue())) as turned:
        assert np.array_equal(opened(checked.data), np.asarray(ImageOps.exif_transpose(turned)))
    assert checked.size == ((40, 60) if orientation > 4 else (60, 40))
    assert check_image(checked.data, "a.png", SMALL).conversions == ()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_becomes_its_first_frame(kind):
    frames = [PillowImage.new("RGB", (30, 20), color) for color in ("red", "blue", "green")]
    out = io.BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=50)
    checked = check_image(out.getvalue(), f"a.{kind.lower()}", SMALL)
    assert checked.conversions == ("animated",)
    red = opened(checked.data).reshape(-1, 3).mean(0)
    assert red[0] > 240 and red[1:].max() < 15


# Names of pictures


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


# Archives


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


# Fuzz: damage at random places. Whatever comes, it is a reason or one clear error, and nothing lies outside.


def damaged(data: bytes, random_: random.Random) -> bytes:
    """A few bytes changed, a piece cut out, doubled, or the end missing."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(out))
        kind = random_.randrange(5)
        if kind <= 1:
            out[at] = random_.randrange(256)
        elif kind == 2:
            del out[at : at + random_.randint(1, 64)]
        elif kind == 3:
            out[at:at] = out[at : at + random_.randint(1, 64)]
        elif len(out) > 100:
            del out[-random_.randint(1, len(out) // 3) :]
        if not out:
            return b""
    return bytes(out)


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_damaged_pictures_are_rejected_or_can_be_decoded(kind):
    whole, random_, seen = noise(kind, (40, 30)), random.Random(2), Counter()
    for _ in range(250):
        data = damaged(whole, random_)
        try:
            checked = check_image(data, f"a.{kind.lower()}", SMALL)
        except Rejected as error:
            seen[error.reason] += 1
            continue
        seen["kept"] += 1
        with PillowImage.open(io.BytesIO(checked.data)) as shown:
            assert shown.convert("RGB").size == checked.size
    assert len(seen) > 1


def test_a_set_of_damaged_records_is_prepared_or_refused_in_one_line(tmp_path):
    lines = [dump(comt_line(n, image_input=["images_comt/a.png"])) for n in range(6)]
    random_ = random.Random(3)
    folder = tmp_path / "in"
    write_files(folder, {"images_comt/a.png": PNG})
    for number in range(40):
        (folder / "TRAIN.jsonl").write_bytes(damaged(b"\n".join(lines), random_))
        try:
            prepare("comt", tmp_path / str(number), options={"path": str(folder), "max_rejected": 1.0})
        except DataError as error:
            assert "no record of train is left" in str(error)


def test_a_tar_without_compression_keeps_few_headers(tmp_path):
    """Reading the index of a large archive doesn't hold it in memory."""
    write_tar(tmp_path / "a.tar", {f"{n}.png": PNG for n in range(200)}, "w")
    assert extract(tmp_path / "a.tar", tmp_path / "t", LIMITS) == []
    assert len(written(tmp_path / "t")) == 200
