"""Reader of the published VSP maps: `rows.jsonl` (one map per line) and the images it names.

A line has `id`, `level` (the map's size), `image` (a path below the folder) and `map_desc`: rows of 0 ice, -1 hole,
1 start, 2 goal.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from covt_data.data_errors import DataError, DataFileError
from covt_data.schema import Image, Row
from covt_data.tasks.grid import CELL_PIXELS
from covt_data.tasks.vsp_maps import shortest_plan
from covt_data.tasks.vsp_rows import StepStyle, prompt_row

TABLE = "rows.jsonl"
LETTERS = {0: "F", -1: "H", 1: "S", 2: "G"}
EXPECTED = "the folder of the published maps has rows.jsonl and level3/ ... level8/"


@dataclass(frozen=True)
class PublishedMap:
    id: str
    rows: tuple[str, ...]
    file: Path


@dataclass(frozen=True)
class PublishedMaps:
    """The maps of the chosen levels, in the order of the table."""

    folder: Path
    maps: tuple[PublishedMap, ...]

    @classmethod
    def open(cls, folder: Path, levels: tuple[int, ...]) -> PublishedMaps:
        """Read and check the table.

        Raises:
            DataFileError: when the table or an image is missing.
            DataError: when a line is invalid, or a level has no map.
        """
        table = folder / TABLE
        if not table.is_file():
            raise DataFileError(f"{table} does not exist", EXPECTED)
        maps: list[PublishedMap] = []
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            found = _parse(folder, line, f"{table}, line {number}")
            if len(found.rows) in levels:
                maps.append(found)
        missing = sorted(set(levels) - {len(item.rows) for item in maps})
        if missing:
            raise DataError(
                f"{table} has no maps of level {', '.join(map(str, missing))}", "choose other levels or sizes"
            )
        return cls(folder, tuple(maps))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the table, and of the chosen images together."""
        images = hashlib.sha256()
        for item in self.maps:
            images.update(hashlib.sha256(item.file.read_bytes()).digest())
        table = hashlib.sha256((self.folder / TABLE).read_bytes())
        return {TABLE: table.hexdigest(), "pictures": images.hexdigest()}

    def rows(self, split: str, keep_size: bool, style: StepStyle) -> Iterator[Row]:
        """Prompt rows; images are resized to 28 pixels per cell unless `keep_size`. `style` is for the metadata."""
        for item in self.maps:
            image = Image(bytes=_encoded_image(item, keep_size), path=item.file.relative_to(self.folder).as_posix())
            yield prompt_row(item.rows, f"vsp-published-{item.id.replace('/', '-')}", split, image, [], style)


def _parse(folder: Path, line: str, where: str) -> PublishedMap:
    try:
        data: dict[str, Any] = json.loads(line)
        rows = tuple("".join(LETTERS[value] for value in row) for row in data["map_desc"])
        found = PublishedMap(str(data["id"]), rows, folder / data["image"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a map: {type(error).__name__} {error}", EXPECTED) from None
    letters = "".join(rows)
    if {len(row) for row in rows} != {len(rows)} or letters.count("S") != 1 or letters.count("G") != 1:
        raise DataError(f"{where}: {rows} is not a square map with one start and one goal", "correct the line")
    if shortest_plan(rows) is None:
        raise DataError(f"{where}: {rows} has no way from start to goal", "remove the line")
    if not found.file.resolve().is_relative_to(folder.resolve()) or not found.file.is_file():
        raise DataFileError(f"{where}: no image {data['image']!r} in {folder}", EXPECTED)
    return found


def _encoded_image(item: PublishedMap, keep_size: bool) -> bytes:
    """Return the image's bytes as published, or a PNG of it at 28 pixels per cell."""
    encoded = item.file.read_bytes()
    if keep_size:
        return encoded
    side = CELL_PIXELS * len(item.rows)
    try:
        with PillowImage.open(io.BytesIO(encoded)) as opened:
            resized = opened.convert("RGB").resize((side, side), PillowImage.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError) as error:
        raise DataFileError(f"{item.file} cannot be read: {error}", "fetch the image again") from error
    out = io.BytesIO()
    resized.save(out, "PNG", compress_level=6)
    return out.getvalue()
