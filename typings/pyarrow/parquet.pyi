"""The part of pyarrow.parquet that covt uses, typed."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Self

from pyarrow import RecordBatch, Schema, Table

class RowGroupMetaData:
    num_rows: int

class FileMetaData:
    num_rows: int
    num_row_groups: int
    def row_group(self, i: int) -> RowGroupMetaData: ...

class ParquetFile:
    metadata: FileMetaData
    num_row_groups: int
    def __init__(self, source: str | PathLike[str], *, buffer_size: int = 0, pre_buffer: bool = True) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *args: object) -> None: ...
    def read(self, columns: Sequence[str] | None = None) -> Table: ...
    def read_row_group(self, i: int, columns: Sequence[str] | None = None) -> Table: ...
    def iter_batches(
        self, batch_size: int = 65536, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[RecordBatch]: ...

class ParquetWriter:
    def __init__(
        self,
        where: str | PathLike[str],
        schema: Schema,
        *,
        compression: str | dict[str, str] = "snappy",
        use_dictionary: bool | Sequence[str] = True,
        write_statistics: bool | Sequence[str] = True,
    ) -> None: ...
    def write_table(self, table: Table, row_group_size: int | None = None) -> None: ...
    def close(self) -> None: ...

def read_metadata(where: str | PathLike[str]) -> FileMetaData: ...
def write_table(
    table: Table,
    where: str | PathLike[str],
    row_group_size: int | None = None,
    *,
    compression: str | dict[str, str] = "snappy",
    compression_level: int | None = None,
    use_dictionary: bool | Sequence[str] = True,
) -> None: ...
