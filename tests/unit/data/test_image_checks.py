"""Images that mean harm or are merely broken, and what becomes of images that readers show differently."""

import io
import random
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from layouts import damaged, noise, picture
from PIL import Image as PillowImage
from PIL import ImageOps

from covt_data.images.image_checks import ImageLimits, check_image
from covt_data.rejects import Reason, Rejected

SMALL = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000)


def png_claiming(width: int, height: int) -> bytes:
    """A tiny file whose header claims a huge picture."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


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


@pytest.mark.parametrize(("top", "seen"), [(1.0, 255), (255.0, 255), (65535.0, 255), (0.5, 127)])
def test_floats_are_scaled_by_the_range_that_they_use(top, seen):
    values = np.linspace(0, top, 64 * 48, dtype=np.float32).reshape(48, 64)
    values[0, :3] = (np.nan, -np.inf, -1)
    out = io.BytesIO()
    PillowImage.fromarray(values).save(out, "TIFF")
    checked = check_image(out.getvalue(), "a.tif", SMALL)
    shown = opened(checked.data)
    assert checked.conversions == ("tiff", "16_bit")
    assert abs(int(shown[-1, -1, 0]) - seen) <= 1 and shown[0, :3].max() == 0


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
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
