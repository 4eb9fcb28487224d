"""Pictures in the columns of Parquet files."""

from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 16  # read at once


class PictureColumn:
    """The column of a Parquet file that holds pictures: bytes, or, as Hugging Face has them, a
    struct with a field `bytes`. Rows are read in order, a few at a time.
    """

    def __init__(self, table: str):
        try:
            self.file = pq.ParquetFile(table)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{table} is no Parquet file: {error}") from error
        fields = [field for field in self.file.schema_arrow if holds_bytes(field.type)]
        if len(fields) != 1:
            raise ValueError(
                f"{table} must have one column of pictures, as bytes or a struct with a field "
                f"bytes; it has {', '.join(field.name for field in fields) or 'none'}"
            )
        self.name = fields[0].name
        groups = range(self.file.num_row_groups)
        sizes = [self.file.metadata.row_group(group).num_rows for group in groups]
        self.starts = [sum(sizes[:group]) for group in groups]
        self.first, self.rows = 0, None

    def at(self, row: int) -> bytes:
        if self.rows is None or not self.first <= row < self.first + 64 * ROWS:
            self.go_to(row)
        while row >= self.first + len(self.rows):
            self.first += len(self.rows)
            self.rows = next(self.batches)[self.name]
        value: Any = self.rows[row - self.first].as_py()
        value = value["bytes"] if isinstance(value, dict) else value
        if value is None:
            raise ValueError("there is no picture in this row")
        return value

    def go_to(self, row: int) -> None:
        """Begin to read at the row group that a row is in."""
        group = max(at for at, start in enumerate(self.starts) if start <= row)
        groups = list(range(group, len(self.starts)))
        self.batches = self.file.iter_batches(ROWS, groups, [self.name])
        self.first, self.rows = self.starts[group], next(self.batches)[self.name]


@lru_cache(2)
def column_of(table: str) -> PictureColumn:
    return PictureColumn(table)


def holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
