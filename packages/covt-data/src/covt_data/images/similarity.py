"""Equality and similarity of rows and images: digests of their content, and hashes of how an image looks."""

from __future__ import annotations

import hashlib
import io
from typing import Protocol

import numpy as np
from PIL import Image as PillowImage

from covt_data.schema import Image, Row

HASH_SIDE = 8  # a difference hash has 8×8 bits
SIMILAR_BITS = 4  # images look alike when their hashes differ in at most this many bits


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


def normalized(text: str) -> str:
    """Return a text without differences of case and white space."""
    return " ".join(text.casefold().split())


def row_digest(row: Row) -> bytes:
    """Return 16 bytes that are equal for rows that differ only in id, split, category and metadata."""
    digest = hashlib.sha256()
    _feed(digest, normalized(row.question).encode(), row.answer.encode(), *(text.encode() for text in row.options))
    _feed(digest, *(image.bytes for image in row.images))
    for step in row.steps:
        _feed(digest, (step.text or "").encode(), *(image.bytes for image in step.images or []))
    return digest.digest()[:16]


def question_digest(row: Row) -> bytes:
    """Return 16 bytes that are equal for rows with the same question about the same images."""
    digest = hashlib.sha256()
    _feed(digest, normalized(row.question).encode(), *(image.bytes for image in row.images))
    return digest.digest()[:16]


def image_digest(image: Image) -> bytes:
    return hashlib.sha256(image.bytes).digest()[:16]


def _feed(digest: _Digest, *parts: bytes) -> None:
    digest.update(len(parts).to_bytes(4, "big"))
    for part in parts:  # lengths keep different lists of parts from feeding the same bytes
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def difference_hash(data: bytes) -> int:
    """Return Krawetz's dHash: 64 bits that say at 8×8 places whether an image grows brighter to the right."""
    with PillowImage.open(io.BytesIO(data)) as opened:
        small = opened.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), PillowImage.Resampling.BILINEAR)
    values = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(values[:, 1:] > values[:, :-1]).tobytes(), "big")


def look_alike(first: int, second: int) -> bool:
    return (first ^ second).bit_count() <= SIMILAR_BITS
