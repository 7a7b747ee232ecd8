"""The rows that the page offers, and pictures as browsers take them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from covt_data.schema import IMAGE_TAG, Row
from covt_data.store.prepared_set import PreparedSet
from covt_eval.eval_errors import EvalError

MAX_ROWS = 200
"""Rows of a set that are offered."""
MAX_SIDE = 1024
"""Longest side in pixels of a picture on the page."""
MAX_HELPERS = 24
"""Helper pictures that latents are compared with."""
HELPER_SIDE = 256


class OfferedRows:
    """The first rows of a prepared set; empty without one."""

    def __init__(self, folder: str, split: str) -> None:
        """Read the rows; raises DataError or DataFileError for a set that can't be read, EvalError for no rows."""
        self.folder, self.split = folder, split
        self.rows: list[Row] = list(PreparedSet(folder).rows(split, MAX_ROWS)) if folder else []
        if folder and not self.rows:
            raise EvalError(f"{folder} has no rows in its split {split!r}", "name another split with --split")

    def find(self, index: int) -> Row:
        """The row at an index; raises EvalError when there is none."""
        if index >= len(self.rows):
            remedy = "start the server with --data SET" if not self.rows else f"use one from 0 to {len(self.rows) - 1}"
            raise EvalError(f"there is no row {index}", remedy)
        return self.rows[index]

    def summary(self) -> dict[str, Any] | None:
        """What the page lists; None without a set."""
        if not self.rows:
            return None
        listed = [
            {"index": index, "id": row.id, "question": plain_question(row)[:160]} for index, row in enumerate(self.rows)
        ]
        return {"name": Path(self.folder).name, "split": self.split, "rows": listed}

    def detail(self, index: int) -> dict[str, Any]:
        """One row with its pictures."""
        row = self.find(index)
        return {
            "index": index,
            "id": row.id,
            "question": plain_question(row),
            "options": row.options,
            "gold": row.answer,
            "pictures": [picture_url(image.bytes, MAX_SIDE) for image in row.images],
        }

    def helpers(self, row: Row) -> list[tuple[Row, bytes]]:
        """Different helper pictures with their rows: those of `row` first, then of the set's other rows."""
        found: dict[bytes, Row] = {}
        for one in (row, *self.rows):
            for step in one.steps:
                for image in step.images or ():
                    if len(found) < MAX_HELPERS:
                        found.setdefault(image.bytes, one)
            if len(found) >= MAX_HELPERS:
                break
        return [(one, data) for data, one in found.items()]

    def donors(self, row: Row) -> Sequence[Row]:
        """Rows that may give their latents to `row`: those behind it first."""
        ids = [one.id for one in self.rows]
        at = ids.index(row.id) + 1 if row.id in ids else 0
        return [one for one in (*self.rows[at:], *self.rows[:at]) if one.id != row.id]


def plain_question(row: Row) -> str:
    """The question without the tags that stand for pictures."""
    return row.question.replace(IMAGE_TAG, "").strip()


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded picture."""
    with PillowImage.open(io.BytesIO(data)) as opened:
        return opened.size


def picture_url(data: bytes, side: int) -> str:
    """A PNG data URL of an encoded picture whose sides are at most `side` pixels."""
    with PillowImage.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
