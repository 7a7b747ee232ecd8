"""`manifest.json` of a prepared set: its origin, its counts, and the hash of every shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from covt_data.data_errors import DataFileError
from covt_data.schema import SCHEMA_VERSION, Record
from covt_data.tasks.grid import CELL_PIXELS

MANIFEST_NAME = "manifest.json"
GRIDS = ("trace", "vsp")
"""Sources that draw grids."""


class SplitCount(Record):
    rows: int
    categories: dict[str, int]


class FileHash(Record):
    sha256: str
    bytes: int
    rows: int


class Manifest(Record):
    """`options`, with `source`, `version` and the hashes of `inputs`, determine every byte of the set.

    No time stamp and no folder of the output: two runs of the same command give the same file. `rejected` counts
    records (and archive members) by reason, `filtered` records by the filter that left them out, `converted` images
    by what was done to them.
    """

    schema_version: int = SCHEMA_VERSION
    source: str
    version: str
    command: str
    options: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict)
    counts: dict[str, SplitCount] = Field(default_factory=dict)
    files: dict[str, FileHash] = Field(default_factory=dict)
    rejected: dict[str, int] = Field(default_factory=dict)
    filtered: dict[str, int] = Field(default_factory=dict)
    converted: dict[str, int] = Field(default_factory=dict)

    def same_origin(self, other: Manifest) -> bool:
        """Whether both describe the same command on the same input with the same version of the generator."""
        keys = ("schema_version", "source", "version", "options", "inputs")
        return all(getattr(self, key) == getattr(other, key) for key in keys)

    @property
    def cell_pixels(self) -> int | None:
        """Pixels per side of a cell, for sets of grids whose cells are to be visual tokens; None for other sets."""
        if self.source not in GRIDS or self.options.get("keep_size"):
            return None
        return self.options.get("cell_pixels", CELL_PIXELS)

    def write(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a prepared set.

        Raises:
            DataFileError: when `folder` is no prepared set, or its manifest is damaged.
        """
        path = folder / MANIFEST_NAME
        if not path.is_file():
            what = "has no manifest.json" if folder.is_dir() else "does not exist"
            raise DataFileError(f"{folder} is not a prepared set: it {what}", "make one with `covt data prepare`")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "file"
            raise DataFileError(
                f"{path} is damaged, {field}: {first['msg']}", "remove the folder and prepare it again"
            ) from None
