"""Copies readings and buckets out, as many as there are, without ever holding them.

A day (of buckets more) is a statement of its own, all of them in one transaction that reads one
state of the database: bounds are constants, so each reads one partition or chunk, and the sort is
of one agent's day at the most. Each checks that the agents are the tenant's.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from iotistica.errors import Busy, NotFound, TooSlow
from iotistica.series.levels import WIDTHS, Level, floor
from iotistica.store.pool import Connection, Pool, is_too_slow, unavailable
from iotistica.store.read_session import read_session

Sink: TypeAlias = Callable[[bytes], Coroutine[Any, Any, None]]

_OWN = """
SELECT uuid FROM agents WHERE tenant_id = $1 AND ($2::uuid[] IS NULL OR uuid = ANY ($2))
"""
_SESSION = {"TimeZone": "UTC", "DateStyle": "ISO", "jit": "off", "extra_float_digits": "1"}
# A join with a subquery that has an order is a loop over agents: rows come in this order without
# a sort of all of them.
_ROWS = """
SELECT {columns} FROM (
    SELECT uuid FROM agents
    WHERE tenant_id = $1 AND ($2::uuid[] IS NULL OR uuid = ANY ($2)) ORDER BY uuid
) AS own CROSS JOIN LATERAL ({source}) AS row
"""
_LINES = "SELECT row_to_json(line) FROM ({rows}) AS line"
_READINGS = """
SELECT * FROM readings
WHERE agent_uuid = own.uuid AND time >= $3::timestamptz AND time < $4::timestamptz
  AND ($5::text[] IS NULL OR metric_name = ANY ($5))
ORDER BY metric_name, time
"""
_BUCKETS = """
SELECT bucket AS time, part.* FROM readings_buckets('{level}', ARRAY[own.uuid],
    coalesce($5::text[], ARRAY(
        SELECT DISTINCT metric_name FROM readings_latest WHERE agent_uuid = own.uuid
    )), $3::timestamptz, $4::timestamptz) AS part
ORDER BY metric_name, bucket, device_name, protocol, unit
"""
_TIME = """to_char(row.time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

READING_COLUMNS = (
    *("time", "agent_uuid", "metric_name", "value", "quality", "unit", "protocol", "extra"),
    *("anomaly_score", "anomaly_threshold"),
)
"""Those of the table; `device_name`, a part of `extra`, may be asked for besides."""
BUCKET_COLUMNS = (
    *("time", "agent_uuid", "metric_name", "device_name", "protocol", "unit", "avg_value"),
    *("min_value", "max_value", "first_value", "last_value", "stddev_value", "sample_count"),
    *("quality_ratio", "max_anomaly_score"),
)
_WINDOWS = {
    "raw": timedelta(days=1),
    "1m": timedelta(days=1),
    "1h": timedelta(days=28),
    "daily": timedelta(days=364),
}
_JUST_AFTER = timedelta(microseconds=1)
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
"""No reading is older."""
_AHEAD = timedelta(days=2)
"""None is further ahead."""
_WAIT_S = 15.0
_GRACE_S = 5.0


class Layout(enum.Enum):
    """How rows are written."""

    TABLE = "table"
    """CSV (RFC 4180) without a header, times in ISO 8601."""
    CELLS = "cells"
    """The same with times as PostgreSQL writes them, which is quicker."""
    LINES = "lines"
    """A JSON object each."""


# JSON has neither of these characters as such, so that nothing is ever quoted.
_MARKS: dict[Layout, dict[str, Any]] = {Layout.LINES: {"quote": "\x01", "delimiter": "\x02"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Readings with `start <= time <= end`, or the buckets that hold any of that time."""

    agents: Sequence[UUID] | None
    """None for all of the tenant."""
    metrics: Sequence[str] | None
    start: datetime
    end: datetime
    level: Level
    columns: Sequence[str]
    """Of `columns_of`."""


def columns_of(level: Level) -> tuple[str, ...]:
    """All columns that there are."""
    return (*READING_COLUMNS, "device_name") if level == "raw" else BUCKET_COLUMNS


class ExportStore:
    """Raises `StoreUnavailable`."""

    def __init__(
        self, pool: Pool, *, most: int = 2, limit_s: float = 3600.0, demote_after_s: float = 0.2
    ) -> None:
        self._pool = pool
        self._most = most
        self._limit_s = limit_s
        self._demote_after_s = demote_after_s
        self._slots = asyncio.Semaphore(most)

    async def check(self, tenant: str, agents: Sequence[UUID]) -> None:
        """Raise `NotFound` for the first that is unknown, or another tenant's."""
        with unavailable("read agents"):
            rows = await self._pool.fetch(_OWN, tenant, agents)
        own = {row["uuid"] for row in rows}
        for agent in agents:
            if agent not in own:
                raise NotFound(f"agent {agent} does not exist")

    async def copy(self, tenant: str, chosen: Chosen, layout: Layout, sink: Sink) -> None:
        """Give rows to the sink, in pieces of whole rows, as fast as it takes them.

        In the order of days; within one by agent, metric and time. Raises `Busy`, `TooSlow`, and
        what the sink raises.
        """
        statement = _statement(chosen, layout)
        async with self._open() as connection:
            for since, until in windows(chosen):
                await connection.copy_from_query(
                    statement,
                    *(tenant, chosen.agents, since, until, chosen.metrics),
                    output=sink,
                    # Longer than the pool lets statements take; the limit itself ends it first.
                    timeout=self._limit_s + _GRACE_S,
                    format="csv",
                    **_MARKS.get(layout, {}),
                )

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Connection]:
        """One of a few connections, within one transaction."""
        try:
            await asyncio.wait_for(self._slots.acquire(), min(_WAIT_S, self._limit_s))
        except TimeoutError:
            raise Busy(
                f"{self._most} exports are under way; "
                "IOTISTICA_EXPORT_MAX_AT_ONCE says how many there may be"
            ) from None
        try:
            async with asyncio.timeout(self._limit_s):
                with unavailable("export readings"):
                    async with read_session(
                        self._pool,
                        limit_s=self._limit_s,
                        demote_after_s=self._demote_after_s,
                        settings=_SESSION,
                    ) as connection:
                        yield connection
        except Exception as error:
            if not isinstance(error, TimeoutError) and not is_too_slow(error.__cause__ or error):
                raise
            raise TooSlow(
                f"the export took longer than {self._limit_s:g} s (IOTISTICA_EXPORT_TIMEOUT_S); "
                "ask for a shorter range, fewer metrics or agents, or a coarser resolution"
            ) from error
        finally:
            self._slots.release()


def windows(chosen: Chosen) -> Iterator[tuple[datetime, datetime]]:
    """Parts of the range: first time, and the first that is too late."""
    width, length = WIDTHS[chosen.level], _WINDOWS[chosen.level]
    end = min(chosen.end, datetime.now(UTC) + _AHEAD)
    since, until = max(chosen.start, _FIRST), end + _JUST_AFTER
    if width:
        since, until = floor(since, width), floor(end, width) + width
    while since < until:
        following = min(floor(since, length) + length, until)
        yield since, following
        since = following


def _statement(chosen: Chosen, layout: Layout) -> str:
    own = {"device_name": "row.extra->>'device_name'"} if chosen.level == "raw" else {}
    if layout is not Layout.CELLS:
        own["time"] = _TIME
    columns = ", ".join(f"{own.get(name, f'row.{name}')} AS {name}" for name in chosen.columns)
    source = _READINGS if chosen.level == "raw" else _BUCKETS.format(level=chosen.level)
    rows = _ROWS.format(columns=columns, source=source)
    return _LINES.format(rows=rows) if layout is Layout.LINES else rows
