"""Places one `<image>` tag per image in a question, and brings the images into the order of numbered tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from posixpath import basename

from covt_data.records.parsed_record import ImageRef
from covt_data.rejects import Reason, Rejected, shorten
from covt_data.schema import IMAGE_TAG

TAG = re.compile(r"<image[\s_]{0,4}(\d{0,4})\s{0,4}/?>|<img\b([^<>]*)>", re.IGNORECASE)
SOURCE = re.compile(r"""\bsrc\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>/]+))""", re.IGNORECASE)


def place_image_tags(
    question: str, images: Sequence[ImageRef], in_front: bool = False
) -> tuple[str, tuple[ImageRef, ...]]:
    """Return the question with one `<image>` tag per image, and the images in the order of the tags.

    `<image1>`, `<image 1>` and `<img src=…>` say which image they mean; an image named twice stands there twice. A
    question without tags gets them in front.

    Args:
        question: the text of the source.
        images: the images in the record's order.
        in_front: move the tags to the front, whatever their number and order.

    Raises:
        Rejected: when tags and images don't match.
    """
    tags = list(TAG.finditer(question))
    if in_front:
        return IMAGE_TAG * len(images) + TAG.sub("", question).strip(), tuple(images)
    if not tags:
        return IMAGE_TAG * len(images) + question.strip(), tuple(images)
    text = TAG.sub(IMAGE_TAG, question).strip()
    named = _named(tags, images)
    if named is not None:
        return text, tuple(images[number] for number in named)
    if len(tags) != len(images):
        raise Rejected(Reason.IMAGE_COUNT, f"the question has {len(tags)} {IMAGE_TAG} for {len(images)} images")
    return text, tuple(images)


def _named(tags: Sequence[re.Match[str]], images: Sequence[ImageRef]) -> list[int] | None:
    """Return the index of the image that each tag names, or None when no tag names one."""
    numbers = [int(tag.group(1)) if tag.group(1) else None for tag in tags]
    if any(number is not None for number in numbers):
        given = [number for number in numbers if number is not None]
        first = 0 if 0 in given else 1
        indexes = [number - first for number in given]
    else:
        names = [_source(tag) for tag in tags]
        found = [_index(name, images) for name in names]
        if all(index is None for index in found):
            return None
        indexes = [index for index in found if index is not None]
    if len(indexes) < len(tags):
        raise Rejected(Reason.IMAGE_COUNT, f"some image tags name an image, others don't: {_spelled(tags)}")
    if set(indexes) != set(range(len(images))):
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        raise Rejected(Reason.IMAGE_COUNT, f"the tags {_spelled(tags)} don't name each image of a record with {count}")
    return indexes


def _source(tag: re.Match[str]) -> str | None:
    found = SOURCE.search(tag.group(2) or "")
    return next((name for name in found.groups() if name is not None), None) if found else None


def _index(name: str | None, images: Sequence[ImageRef]) -> int | None:
    """Return the index of the only image of this path, or else of this file name."""
    if not name:
        return None
    for spelled in (str, basename):
        same = [i for i, ref in enumerate(images) if isinstance(ref, str) and spelled(ref) == spelled(name)]
        if len(same) == 1:
            return same[0]
    return None


def _spelled(tags: Sequence[re.Match[str]]) -> str:
    return shorten(" ".join(tag.group() for tag in tags))
