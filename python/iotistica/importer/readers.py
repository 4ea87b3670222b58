"""Lines of CSV, NDJSON and Parquet files, one at a time: memory does not depend on their size."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import orjson

from iotistica.errors import ConfigError
from iotistica.importer.files import Damaged, File, arrow
from iotistica.importer.layout import Layout
from iotistica.importer.plan import Form, Plan
from iotistica.importer.refusal import Refusal, Unfit
from iotistica.importer.shape import Line

_LINE_BYTES = 1 << 20
_BATCH_ROWS = 8192
_LAYOUTS = 1000

Lines = Generator[Line | Refusal, None, None]
"""Lines, and those that cannot be read."""


def lines(file: File, content: BinaryIO, plan: Plan) -> Lines:
    """Lines of a file.

    Raises `ConfigError` for its columns, `Damaged` for what is no such file.
    """
    match file.form:
        case Form.CSV:
            return _csv(file, content, plan)
        case Form.NDJSON:
            return _ndjson(file, content, plan)
        case Form.PARQUET:
            return _parquet(file, content, plan)


def layout_of(file: File, header: Sequence[str], plan: Plan) -> Layout:
    """Raises `ConfigError`."""
    try:
        return Layout.of(header, plan)
    except ConfigError as error:
        raise ConfigError(f"{file.name}: {error}") from None


def _csv(file: File, content: BinaryIO, plan: Plan) -> Lines:
    # What is no UTF-8 costs its line alone.
    text = io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(file, text, plan)
    finally:
        text.detach()  # else it would close what is not its own


def _rows(file: File, text: io.TextIOWrapper, plan: Plan) -> Lines:
    csv.field_size_limit(_LINE_BYTES)
    reader = csv.reader(_short(file, text.readline), delimiter=file.delimiter, strict=True)
    layout = None
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if layout is None:
                raise Damaged(f"{file.name}: line {number}: {error}") from None
            yield Unfit("row_form", f"is not CSV: {error}").at(file.name, number)
            continue
        if not cells:
            continue
        if layout is None:
            layout = layout_of(file, [name.strip() for name in cells], plan)
        elif len(cells) != len(layout.header):
            rule = f"{len(cells)} cells where the header has {len(layout.header)}"
            yield Unfit("row_form", rule).at(file.name, number)
        else:
            yield Line(number, layout, cells)


def _short(file: File, readline: Callable[[int], Any]) -> Iterator[Any]:
    """Lines that fit into memory. Raises `Damaged` for one that does not."""
    number = 0
    while line := readline(_LINE_BYTES):
        number += 1
        if len(line) == _LINE_BYTES:
            raise Damaged(f"{file.name}: line {number} is longer than {_LINE_BYTES} bytes")
        yield line


def _ndjson(file: File, content: BinaryIO, plan: Plan) -> Lines:
    layouts: dict[tuple[str, ...], Layout | Unfit] = {}
    for number, text in enumerate(_short(file, content.readline), 1):
        if text.isspace():
            continue
        try:
            members = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            yield Unfit("json", f"is not JSON: {error}").at(file.name, number)
            continue
        if not isinstance(members, dict):
            yield Unfit("row_form", "is not a JSON object").at(file.name, number)
            continue
        header = tuple(members)
        if (layout := layouts.get(header)) is None:
            if len(layouts) >= _LAYOUTS:
                layouts.clear()
            layout = layouts[header] = _layout_of_line(header, plan)
        if isinstance(layout, Unfit):
            yield layout.at(file.name, number)
        else:
            yield Line(number, layout, list(members.values()))


def _layout_of_line(header: tuple[str, ...], plan: Plan) -> Layout | Unfit:
    """Lines may leave out columns that other lines have."""
    columns = {field: column for field, column in plan.columns.items() if column in header}
    try:
        return Layout.of(header, replace(plan, columns=columns))
    except ConfigError as error:
        return Unfit("row_form", str(error))


def _parquet(file: File, content: BinaryIO, plan: Plan) -> Lines:
    pa = arrow(f"{file.name}: to read Parquet")
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(content)
        layout = layout_of(file, parquet.schema_arrow.names, plan)
        number = 0
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            columns = [_values(pa, column) for column in batch.columns]
            for cells in zip(*columns, strict=True):
                number += 1
                yield Line(number, layout, cells)
    except pa.ArrowException as error:
        raise Damaged(f"{file.name}: {error}") from error


def _values(pa: Any, column: Any) -> list[Any]:
    """Values as telemetry writes them: times in microseconds since 1970."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    elif pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    values: list[Any] = column.to_pylist()
    return values
