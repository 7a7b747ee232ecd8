"""Writes the shards of a split with little in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from covt_data.store.arrow_rows import ARROW_SCHEMA, build_table
from covt_data.store.manifest import FileHash
from covt_data.store.prepared_set import sha256_of

SHARD_ROWS, SHARD_BYTES = 2000, 256 << 20
GROUP_ROWS, GROUP_BYTES = 64, 8 << 20
"""Small row groups: writing holds little in memory, and shuffled reading loads few unneeded rows."""

_IMAGES = ("images.list.element.bytes", "steps.list.element.images.list.element.bytes")
COMPRESSION: Any = {
    leaf: "NONE" if leaf in _IMAGES else "ZSTD"
    for leaf in (
        *ARROW_SCHEMA.names,
        *_IMAGES,
        "images.list.element.path",
        "options.list.element",
        "steps.list.element.type",
        "steps.list.element.text",
        "steps.list.element.images.list.element.path",
    )
}
"""Published images are already compressed."""


class ShardWriter:
    """The shards of one split. A row group is written as soon as it is full."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.waiting: list[dict[str, Any]] = []
        self.waiting_bytes = self.rows = self.bytes = 0
        self.file: pq.ParquetWriter | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.parquet"

    def add(self, row: dict[str, Any]) -> bool:
        """Add the fields of a row. Returns whether the shard is full."""
        size = sum(len(image["bytes"]) for image in row["images"])
        size += sum(len(image["bytes"]) for step in row["steps"] for image in step["images"] or ())
        self.waiting.append(row)
        self.waiting_bytes += size
        self.rows += 1
        self.bytes += size
        if len(self.waiting) >= GROUP_ROWS or self.waiting_bytes >= GROUP_BYTES:
            self._write_group()
        return self.rows >= SHARD_ROWS or self.bytes >= SHARD_BYTES

    def close(self) -> tuple[str, FileHash] | None:
        """Finish the shard and begin the next. Returns its name and hash, or None when it has no rows."""
        if not self.rows:
            return None
        self._write_group()
        assert self.file is not None
        self.file.close()
        done = self.path.name, FileHash(sha256=sha256_of(self.path), bytes=self.path.stat().st_size, rows=self.rows)
        self.file, self.rows, self.bytes, self.number = None, 0, 0, self.number + 1
        return done

    def _write_group(self) -> None:
        if not self.waiting:
            return
        if self.file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = pq.ParquetWriter(
                self.path,
                ARROW_SCHEMA,
                compression=COMPRESSION,
                use_dictionary=False,
                write_statistics=False,
            )
        self.file.write_table(build_table(self.waiting))
        self.waiting, self.waiting_bytes = [], 0
