"""Binary COPY streams made in Python, so that the store is tested without the Rust side."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """A reading as the table knows it."""

    agent: uuid.UUID
    metric: str
    time: datetime
    value: float | None = 1.0
    device: str = "device-1"


@dataclass(frozen=True)
class CopyRows:
    """What `ReadingStore` takes, encoded in Python."""

    copy: bytes
    latest: bytes
    days: list[int]


def _field(value: bytes | None) -> bytes:
    return struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value


def _pgcopy(rows: Sequence[Sequence[bytes | None]]) -> bytes:
    body = b"".join(
        struct.pack(">h", len(row)) + b"".join(_field(field) for field in row) for row in rows
    )
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + body + b"\xff\xff"


def _time(moment: datetime) -> bytes:
    return struct.pack(">q", (moment - _EPOCH) // timedelta(microseconds=1))


def _value(value: float | None) -> bytes | None:
    return None if value is None else struct.pack(">d", value)


def copy_rows(*rows: Row) -> CopyRows:
    """Encode rows for `readings` (columns of the overview) and for `readings_latest`."""
    ordered = sorted(rows, key=lambda row: (row.agent.bytes, row.metric.encode(), row.time))
    newest = {(row.agent, row.device, row.metric): row for row in ordered}
    return CopyRows(
        copy=_pgcopy(
            [
                (
                    *(_time(row.time), row.agent.bytes, row.metric.encode(), _value(row.value)),
                    *(b"good", b"C", b"modbus"),
                    b'\x01{"device_name":"%s"}' % row.device.encode(),
                    *(None, None),
                )
                for row in ordered
            ]
        ),
        latest=_pgcopy(
            [
                (
                    *(row.agent.bytes, row.device.encode(), row.metric.encode()),
                    *(_time(row.time), _value(row.value), b"good", b"C", b"modbus"),
                )
                for row in newest.values()
            ]
        ),
        days=sorted({int(row.time.timestamp() // 86_400) for row in rows}),
    )
