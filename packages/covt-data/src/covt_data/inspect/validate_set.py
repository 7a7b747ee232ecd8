"""Validates a prepared set: files against the manifest, every row against the schema, every image by decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from covt_data.data_errors import DataError, DataFileError
from covt_data.images.image_checks import ImageLimits, check_image, strict_decoding
from covt_data.records.control_tokens import find_control_token, row_texts
from covt_data.records.gold_answers import row_problem
from covt_data.rejects import Rejected, shorten
from covt_data.schema import Image, Row
from covt_data.store.prepared_set import PreparedSet, sha256_of

MAX_PROBLEMS = 1000


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, a row or a count."""

    where: str
    what: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def validate(prepared: PreparedSet, *, decode: bool = True) -> list[Problem]:
    """Return the problems of a set, at most 1000.

    `decode=False` skips the images, which take most of the time.
    """
    found: list[Problem] = []
    with strict_decoding():
        for problem in _problems(prepared, decode):
            found.append(problem)
            if len(found) == MAX_PROBLEMS:
                break
    return found


def _problems(prepared: PreparedSet, decode: bool) -> Iterator[Problem]:
    yield from _file_problems(prepared)
    for split in prepared.splits:
        ids: Counter[str] = Counter()
        categories: Counter[str] = Counter()
        try:
            for row in prepared.rows(split):
                ids[row.id] += 1
                categories[row.category or ""] += 1
                yield from _row_problems(row, f"{split}, row {row.id}", split, decode)
        except (DataError, DataFileError) as error:
            yield Problem(split, str(error))
            continue
        for id_ in (id_ for id_, count in ids.items() if count > 1):
            yield Problem(split, f"the id {id_!r} occurs {ids[id_]} times")
        expected = prepared.manifest.counts[split]
        if (sum(ids.values()), dict(categories)) != (expected.rows, expected.categories):
            yield Problem(split, f"{sum(ids.values())} rows in other categories than the manifest's {expected.rows}")


def _file_problems(prepared: PreparedSet) -> Iterator[Problem]:
    known = prepared.manifest.files
    for name, entry in known.items():
        path = prepared.path / name
        if not path.is_file():
            yield Problem(name, "the file is missing")
        elif path.stat().st_size != entry.bytes or sha256_of(path) != entry.sha256:
            yield Problem(name, "the file is not what was written")
    for path in sorted(prepared.path.rglob("*.parquet")):
        name = path.relative_to(prepared.path).as_posix()
        if name not in known:
            yield Problem(name, "the file is not in the manifest")


def _row_problems(row: Row, where: str, split: str, decode: bool) -> Iterator[Problem]:
    if row.split != split:
        yield Problem(where, f"the row says split {row.split!r}")
    problem = row_problem(row)
    if problem:
        yield Problem(where, f"the answer {shorten(row.answer)} cannot be graded by {row.grader}: {problem}")
    for field, text in row_texts(row):
        token = find_control_token(text)
        if token is not None:
            yield Problem(where, f"{field} holds the control token {token}")
    sizes: dict[bytes, tuple[int, int]] = {}
    if decode:
        for image in _images(row):
            try:
                sizes[image.bytes] = check_image(image.bytes, image.path, ImageLimits(any_suffix=True)).size
            except Rejected as error:
                yield Problem(where, str(error))
    yield from _focus_problems(row, where, sizes)


def _images(row: Row) -> Iterator[Image]:
    """Yield the distinct images of a row."""
    every = [*row.images, *(image for step in row.steps for image in step.images or [])]
    yield from {image.bytes: image for image in every}.values()


def _focus_problems(row: Row, where: str, sizes: dict[bytes, tuple[int, int]]) -> Iterator[Problem]:
    """Focus boxes: one for each helper image, inside of it."""
    focus = row.meta.get("focus")
    if focus is None:
        return
    latents = [step.images for step in row.steps if step.images]
    if [len(boxes) for boxes in focus] != [len(images) for images in latents]:
        yield Problem(where, "metadata has not one focus box for each helper image")
        return
    for images, boxes in zip(latents, focus, strict=True):
        for image, (x0, y0, x1, y1) in zip(images, boxes, strict=True):
            width, height = sizes.get(image.bytes, (x1, y1))
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                yield Problem(where, f"the focus box {[x0, y0, x1, y1]} is not inside the {width}×{height} image")
