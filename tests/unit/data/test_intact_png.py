"""The quick check of PNGs against Pillow: it never passes what a decoder refuses."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from covt_data.images.intact_png import is_intact_plain_png


def encoded(width=17, height=11, mode="RGB", **options) -> bytes:
    pixels = np.random.default_rng(width * 100 + height).integers(0, 256, (height, width, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "PNG", **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def built(lines: bytes, size=(4, 3), header=(8, 2, 0, 0, 0), pieces=1, between=b"") -> bytes:
    data = zlib.compress(lines)
    step = -(-len(data) // pieces)
    chunks = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II5B", *size, *header))
    return start + between.join(chunks) + chunk(b"IEND", b"")


LINES = (b"\1" + bytes(12)) * 3


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["RGB", "L", "P"]))
def test_ordinary_pictures_pass(width, height, mode):
    assert is_intact_plain_png(encoded(width, height, mode))


def test_large_pictures_pass_in_pieces():
    assert is_intact_plain_png(encoded(301, 203))
    assert is_intact_plain_png(built(LINES, pieces=4))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x89PNG\r\n\x1a\n", encoded()[:-12], encoded()[:-1], encoded()[:60], encoded() + b"more",
        encoded(mode="RGBA"), encoded(mode="LA"), encoded(mode="1"), encoded(mode="P", transparency=0),
        encoded(exif=Image.Exif().tobytes() or b"Exif\0\0"),
        built(LINES[:-1]), built(LINES + b"\0"), built(LINES * 2), built(LINES[:-13] + b"\5" + bytes(12)),
        built(LINES, header=(16, 2, 0, 0, 0)), built(LINES, header=(8, 2, 0, 0, 1)),
        built(LINES, header=(8, 2, 1, 0, 0)),
        built(LINES, header=(8, 3, 0, 0, 0)), built(LINES, (0, 3)), built(LINES, (60_000, 60_000)),
        built(LINES, pieces=3, between=chunk(b"tIME", bytes(7))),
        built(LINES, pieces=3, between=chunk(b"acTL", bytes(8))),
    ],
)  # fmt: skip
def test_anything_else_is_left_to_a_decoder(data):
    assert not is_intact_plain_png(data)


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_what_passes_decodes(mode):
    whole, chance, passed = encoded(23, 19, mode), random.Random(0), 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
        if chance.random() < 0.5:
            data = bytearray(resealed(bytes(data)))
        if is_intact_plain_png(bytes(data)):
            passed += 1
            with Image.open(io.BytesIO(bytes(data))) as picture:
                picture.load()
    assert passed > 20


def resealed(data: bytes) -> bytes:
    """The checksums made right again, so that damage is not noticed by them alone."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(bytes(out[at + 4 : end])).to_bytes(4, "big")
        at = end + 4
    return bytes(out)
