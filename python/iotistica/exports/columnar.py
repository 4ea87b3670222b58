"""Rows as Parquet or as an Arrow stream. The only module that imports pyarrow, and only to export:
it takes some 50 MB."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from iotistica.exports.forms import Form

ROWS_PER_GROUP = 128 * 1024

_TEXT = pa.dictionary(pa.int32(), pa.string())
_KINDS = {
    "time": pa.timestamp("us", tz="UTC"),
    "extra": pa.string(),
    "sample_count": pa.int64(),
    **dict.fromkeys(
        ("agent_uuid", "metric_name", "device_name", "quality", "unit", "protocol"), _TEXT
    ),
}
_NUMBER = pa.float64()


class _Writer(Protocol):
    def write_table(self, table: Any) -> None: ...
    def close(self) -> None: ...


class _Output(io.RawIOBase):
    """Keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._kept.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        taken, self._kept = b"".join(self._kept), []
        return taken


class Columnar:
    """Encodes rows that come as CSV without a header, where only a field without quotes is null."""

    def __init__(self, form: Form, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._kinds = {name: _KINDS.get(name, _NUMBER) for name in columns}
        self._output = _Output()
        schema = pa.schema(self._kinds.items())
        self._writer: _Writer
        if form is Form.PARQUET:
            self._writer = pa_parquet.ParquetWriter(self._output, schema, compression="zstd")
            self._least_rows = ROWS_PER_GROUP
        else:
            self._writer = pa.ipc.new_stream(self._output, schema)
            self._least_rows = 0
        self._tables: list[Any] = []
        self._rows = 0

    def add(self, rows: bytes) -> bytes:
        """What is ready with these rows, which are whole."""
        table = self._parsed(rows)
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows >= self._least_rows:
            self._flush()
        return self._output.take()

    def finish(self) -> bytes:
        """The end of the file."""
        self._flush()
        self._writer.close()
        return self._output.take()

    def _flush(self) -> None:
        if self._tables:
            table = pa.concat_tables(self._tables).unify_dictionaries().combine_chunks()
            self._writer.write_table(table)
            self._tables, self._rows = [], 0

    def _parsed(self, rows: bytes) -> Any:
        return pa_csv.read_csv(
            pa.BufferReader(rows),
            read_options=pa_csv.ReadOptions(
                column_names=self._columns, block_size=len(rows) + 1, use_threads=False
            ),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=self._kinds,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
