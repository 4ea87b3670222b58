"""Binary COPY streams made in Python, so that the store is tested without the Rust side."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from iotistica._native import Marks

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


@dataclass(frozen=True)
class Row:
    """A reading as the table knows it."""

    agent: uuid.UUID
    metric: str
    time: datetime
    value: float | None = 1.0
    device: str = "device-1"


class Stream(bytes):
    """A COPY stream, and the same as array literals."""

    rows: int
    literals: Sequence[str]

    def arrays(self) -> Sequence[str]:
        return self.literals


@dataclass(frozen=True)
class CopyRows:
    """What `ReadingStore` takes, encoded in Python."""

    copy: Stream
    latest: Stream
    parts: list[tuple[str, int]]

    @property
    def days(self) -> list[int]:
        return sorted({hour // 24 for _, hour in self.parts})

    def unmarked(self, marks: Marks, closed_before: int) -> tuple[list[str], list[int]]:
        return [agent for agent, _ in self.parts], [hour for _, hour in self.parts]

    def marked(self, marks: Marks) -> None:
        pass


class _Json(str):
    __slots__ = ()


_Value: TypeAlias = "datetime | uuid.UUID | str | float | None"


def _field(value: _Value) -> bytes:
    match value:
        case None:
            return struct.pack(">i", -1)
        case datetime():
            field = struct.pack(">q", (value - _EPOCH) // _US)
        case float():
            field = struct.pack(">d", value)
        case uuid.UUID():
            field = value.bytes
        case _Json():
            field = b"\x01" + value.encode()
        case _:
            field = value.encode()
    return struct.pack(">i", len(field)) + field


def _element(value: _Value) -> str:
    match value:
        case None:
            return "NULL"
        case datetime():
            return str((value - _UNIX_EPOCH) // _US)
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case _:
            return str(value)


def stream(rows: Iterable[Sequence[_Value]]) -> Stream:
    """Encode rows of any columns."""
    rows = list(rows)
    body = b"".join(struct.pack(">h", len(row)) + b"".join(map(_field, row)) for row in rows)
    made = Stream(b"PGCOPY\n\xff\r\n\0" + bytes(8) + body + b"\xff\xff")
    made.rows = len(rows)
    columns = zip(*rows, strict=True)
    made.literals = ["{" + ",".join(map(_element, column)) + "}" for column in columns]
    return made


def keys(*rows: Row) -> Stream:
    """Encode the primary keys of rows, in the order given."""
    return stream((row.agent, row.metric, row.time) for row in rows)


def copy_rows(*rows: Row) -> CopyRows:
    """Encode rows for `readings` (columns of the overview) and for `readings_latest`."""
    ordered = sorted(rows, key=lambda row: (row.agent.bytes, row.metric.encode(), row.time))
    newest = {(row.agent, row.device, row.metric): row for row in ordered}
    return CopyRows(
        copy=stream(
            (
                *(row.time, row.agent, row.metric, row.value, "good", "C", "modbus"),
                *(_Json(f'{{"device_name":"{row.device}"}}'), None, None),
            )
            for row in ordered
        ),
        latest=stream(
            (
                *(row.agent, row.device, row.metric),
                *(row.time, row.value, "good", "C", "modbus"),
            )
            for row in newest.values()
        ),
        parts=sorted({(str(row.agent), int(row.time.timestamp() // 3600)) for row in rows}),
    )
