"""When two rows or two pictures are the same: by content, or by how a picture looks."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image as PillowImage

from covt_data.schema import Image, Row

HASH_SIDE = 8  # a difference hash has 8×8 bits
SIMILAR_BITS = 4  # pictures whose hashes differ in at most so many bits look alike


def normalized(text: str) -> str:
    """A text without what doesn't matter for sameness: case and the amount of white space."""
    return " ".join(text.casefold().split())


def row_digest(row: Row) -> bytes:
    """16 bytes: the same for rows that differ in nothing but id, split, category and metadata."""
    digest = hashlib.sha256()
    _feed(digest, normalized(row.question).encode(), row.answer.encode(), *(text.encode() for text in row.options))
    _feed(digest, *(image.bytes for image in row.images))
    for step in row.steps:
        _feed(digest, (step.text or "").encode(), *(image.bytes for image in step.images or []))
    return digest.digest()[:16]


def question_digest(row: Row) -> bytes:
    """16 bytes: the same for rows that ask the same about the same pictures."""
    digest = hashlib.sha256()
    _feed(digest, normalized(row.question).encode(), *(image.bytes for image in row.images))
    return digest.digest()[:16]


def image_digest(image: Image) -> bytes:
    return hashlib.sha256(image.bytes).digest()[:16]


def _feed(digest: hashlib._Hash, *parts: bytes) -> None:
    digest.update(len(parts).to_bytes(4, "big"))
    for part in parts:  # with their lengths: no two lists of parts feed the same bytes
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)


def difference_hash(data: bytes) -> int:
    """64 bits of a picture: for 8×8 places, whether it grows brighter to the right (Krawetz's dHash)."""
    with PillowImage.open(io.BytesIO(data)) as picture:
        small = picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), PillowImage.Resampling.BILINEAR)
    values = np.asarray(small, np.int16)
    return int.from_bytes(np.packbits(values[:, 1:] > values[:, :-1]).tobytes(), "big")


def look_alike(first: int, second: int) -> bool:
    return (first ^ second).bit_count() <= SIMILAR_BITS
