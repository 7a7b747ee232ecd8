"""What an inspection takes: fields within bounds, and pictures that are pictures."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image as PillowImage

from covt_eval.eval_errors import EvalError
from covt_eval.inspection.inspect_request import InspectRequest, read_picture, read_request, uploaded_row


def png(width: int = 8, height: int = 8) -> bytes:
    out = io.BytesIO()
    PillowImage.new("RGB", (width, height), (200, 30, 90)).save(out, "PNG")
    return out.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def bomb() -> bytes:
    """A PNG whose header claims 30 000 × 30 000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_a_question_becomes_a_row_with_its_pictures_first() -> None:
    request = read_request(json.dumps({"question": "Where?", "pictures": [encoded(png())] * 2}).encode())
    row = uploaded_row(request, 2)
    assert (row.question, len(row.images)) == ("<image><image>Where?", 2)
    placed = InspectRequest(question="a <image> b", pictures=[f"data:image/png;base64,{encoded(png())}"])
    assert uploaded_row(placed, 1).question == "a <image> b"
    assert uploaded_row(placed, 1).images[0].bytes == png()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "malformed"),
        (b"[]", "malformed"),
        (b"\xff\xfe", "malformed"),
        ({}, "neither or both"),
        ({"row": 0, "question": "a"}, "neither or both"),
        ({"row": -1}, "row"),
        ({"row": True}, "row"),
        ({"row": "0"}, "row"),
        ({"question": "a", "samples": 17}, "samples"),
        ({"question": "a", "max_tokens": 0}, "max_tokens"),
        ({"question": "a", "temperature": 0}, "temperature"),
        ({"question": "a", "modes": ["keep"]}, "modes"),
        ({"question": "a" * 20_001}, "question"),
        ({"question": "a", "other": 1}, "other"),
    ],
)
def test_fields_out_of_bounds_are_named(body: Any, message: str) -> None:
    with pytest.raises(EvalError, match=message) as caught:
        read_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert "\n" not in str(caught.value) and caught.value.remedy


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("not base64!", "not base64"),
        ("", "0 bytes"),
        (encoded(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"), "is none of"),
        (encoded(png(64, 64)[:90]), "picture 1"),
        (encoded(bomb()), "900000000 pixels"),
        (encoded(png(1, 300)), "1×300"),
        (encoded(b"\x89PNG\r\n\x1a\n" + b"\xff" * 4000), "picture 1"),
    ],
)
def test_hostile_pictures_are_refused_in_one_sentence(picture: str, message: str) -> None:
    with pytest.raises(EvalError, match=message) as caught:
        read_picture(picture, 1)
    assert "\n" not in str(caught.value)


def test_too_many_pictures_and_tags_without_one_are_refused() -> None:
    with pytest.raises(EvalError, match="has 2 pictures, the server takes 1"):
        uploaded_row(InspectRequest(question="a", pictures=[encoded(png())] * 2), 1)
    with pytest.raises(EvalError, match="has 2 <image> for 1 pictures"):
        uploaded_row(InspectRequest(question="<image><image>", pictures=[encoded(png())]), 1)


def test_a_turned_picture_comes_back_as_people_see_it() -> None:
    out = io.BytesIO()
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (20, 10), "red").save(out, "JPEG", exif=exif)
    with PillowImage.open(io.BytesIO(read_picture(encoded(out.getvalue()), 1))) as seen:
        assert (seen.size, seen.format) == ((10, 20), "PNG")
