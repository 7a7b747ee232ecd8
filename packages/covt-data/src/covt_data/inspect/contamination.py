"""Finds rows of a training set that occur in a test set.

It distinguishes three kinds: the same question about the same images, the same image, and an image that looks the
same (difference hashes at most 4 bits apart). Images drawn from few tiles look alike without being equal, so the last
kind is only a hint.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from covt_data.images.similarity import SIMILAR_BITS, difference_hash, image_digest, look_alike, question_digest
from covt_data.schema import Row
from covt_data.store.prepared_set import PreparedSet

KINDS: tuple[str, ...] = ("same_question", "same_image", "similar_image")
BANDS = SIMILAR_BITS + 1  # hashes that differ in 4 bits agree in at least one of 5 bands
BAND_BITS = 64 // BANDS + 1
EXAMPLES = 20  # of each kind


@dataclass(frozen=True)
class Place:
    split: str
    id: str

    @classmethod
    def of(cls, row: Row) -> Place:
        return cls(row.split, row.id)


class _Index:
    """The locations of each question, image and difference hash in the test set."""

    def __init__(self) -> None:
        self.questions: dict[bytes, Place] = {}
        self.images: dict[bytes, Place] = {}
        self.bands: dict[tuple[int, int], list[tuple[int, Place]]] = {}

    def add(self, row: Row) -> None:
        place = Place.of(row)
        self.questions.setdefault(question_digest(row), place)
        for image in row.images:
            digest = image_digest(image)
            if digest not in self.images:
                self.images[digest] = place
                look = difference_hash(image.bytes)
                for band in _bands(look):
                    self.bands.setdefault(band, []).append((look, place))

    def matches(self, row: Row) -> Iterator[tuple[str, Place]]:
        """Yield the strongest kind of match of a row, if any."""
        same = self.questions.get(question_digest(row))
        if same:
            yield "same_question", same
            return
        for image in row.images:
            place = self.images.get(image_digest(image))
            if place:
                yield "same_image", place
                return
        for image in row.images:
            look = difference_hash(image.bytes)
            for band in _bands(look):
                for other, place in self.bands.get(band, ()):
                    if look_alike(look, other):
                        yield "similar_image", place
                        return


def _bands(look: int) -> list[tuple[int, int]]:
    mask = (1 << BAND_BITS) - 1
    return [(band, look >> (band * BAND_BITS) & mask) for band in range(BANDS)]


def contamination(trained: PreparedSet, tested: PreparedSet, *, splits: list[str] | None = None) -> dict[str, Any]:
    """Rows of `trained` (of its `splits`, by default all) that occur in `tested`, by the strongest kind of match.

    Returns `{"rows", "against", "same_question", "same_image", "similar_image", "examples"}`; an example names
    both places. Two splits of one set can be compared by giving it twice and naming `splits`: those of `tested` are
    then the others.
    """
    chosen = splits or trained.splits
    others = [name for name in tested.splits if trained.path.resolve() != tested.path.resolve() or name not in chosen]
    index, against = _Index(), 0
    for split in others:
        for row in tested.rows(split):
            index.add(row)
            against += 1
    found = dict.fromkeys(KINDS, 0)
    examples: list[dict[str, str]] = []
    rows = 0
    for split in chosen:
        for row in trained.rows(split):
            rows += 1
            for kind, place in index.matches(row):
                found[kind] += 1
                if found[kind] <= EXAMPLES:
                    examples.append({"kind": kind, "row": f"{split}/{row.id}", "found": f"{place.split}/{place.id}"})
    return {"rows": rows, "against": against, **found, "examples": examples}
