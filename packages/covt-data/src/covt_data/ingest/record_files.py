"""Reads the records of JSONL and Parquet files one at a time, each with its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from covt_data.data_errors import DataFileError
from covt_data.records.field_values import as_object, read_integer
from covt_data.rejects import Reason, Rejected, shorten

MAX_LINE = 16 << 20  # bytes
PARQUET_BATCH = 8  # rows; images inside may have megabytes each
BOM = b"\xef\xbb\xbf"
READ_AHEAD = 1 << 20  # bytes of a Parquet column that are read at a time


@dataclass(frozen=True)
class Record:
    """A raw record: a line of JSON not yet parsed, or a row of Parquet. `line` counts from 1."""

    file: str
    line: int
    raw: bytes | dict[str, Any]

    def data(self) -> dict[str, Any]:
        """Return the fields.

        Raises:
            Rejected: when the line is not a JSON object in UTF-8.
        """
        if isinstance(self.raw, dict):
            return self.raw
        if len(self.raw) > MAX_LINE:
            raise Rejected(Reason.LINE_TOO_LONG, f"the line has more than {MAX_LINE} bytes")
        try:
            parsed: object = json.loads(self.raw.decode("utf-8-sig"), parse_int=read_integer)
        except UnicodeDecodeError as error:
            utf16 = ": the file looks like UTF-16, save it as UTF-8" if b"\0" in self.raw else ""
            raise Rejected(Reason.NOT_UTF8, f"{error}{utf16}") from None
        except json.JSONDecodeError as error:
            raise Rejected(Reason.NOT_JSON, f"{error.msg} at column {error.colno}") from None
        except RecursionError:
            raise Rejected(Reason.NOT_JSON, "brackets are nested too deeply") from None
        fields = as_object(parsed)
        if fields is None:
            raise Rejected(Reason.NOT_AN_OBJECT, f"{shorten(parsed)} is not an object: write one object per line")
        return fields


def read_records(path: Path, name: str, start: int = 0) -> Iterator[Record]:
    """Yield the records of a file, beginning with number `start` (from 0).

    Args:
        path: a `.parquet` file, or JSONL.
        name: the file's name in messages.
        start: number of records to skip.

    Raises:
        DataFileError: when the file cannot be read.
    """
    reader = _parquet if path.suffix == ".parquet" else _jsonl
    if path.is_file() and not path.stat().st_size:
        return
    try:
        yield from reader(path, name, start)
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"cannot read {path}: {error}", "fetch the file again") from error


def _jsonl(path: Path, name: str, start: int) -> Iterator[Record]:
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE + 1):
            end = line
            while len(end) > MAX_LINE and not end.endswith(b"\n"):  # skip the rest of an endless line
                end = file.readline(MAX_LINE + 1)
            number += 1
            if number > start and (len(line) > MAX_LINE or line.removeprefix(BOM).strip()):
                yield Record(name, number, line)


def _parquet(path: Path, name: str, start: int) -> Iterator[Record]:
    with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= start:
                number += rows
                continue
            for batch in file.iter_batches(PARQUET_BATCH, row_groups=[group]):
                for data in batch.to_pylist():
                    number += 1
                    if number > start:
                        yield Record(name, number, data)
