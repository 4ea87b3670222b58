"""Counts what a fleet has in `readings`: the other half of `iotistica simulate --verify`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from iotistica.store.pool import Pool, unavailable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_METRICS = """
SELECT DISTINCT r.metric_name FROM readings AS r
JOIN unnest($2::timestamptz[], $3::timestamptz[]) AS span (first, last)
  ON r.time BETWEEN span.first AND span.last
WHERE r.agent_uuid = $1
"""
_ROWS = """
SELECT r.time, r.value FROM readings AS r
JOIN unnest($3::timestamptz[], $4::timestamptz[]) AS span (first, last)
  ON r.time BETWEEN span.first AND span.last
WHERE r.agent_uuid = $1 AND r.metric_name = $2
"""

Range = tuple[int, int]
"""First and last microsecond since 1970, inclusive."""


class Census(Protocol):
    """What the verifier asks of the table."""

    async def metrics(self, agent: str, ranges: Sequence[Range]) -> list[str]:
        """Metrics of an agent that have rows within the ranges."""

    async def rows(
        self, agent: str, metric: str, ranges: Sequence[Range]
    ) -> list[tuple[int, float | None]]:
        """Time in microseconds, and value, of every row within the ranges."""


class CensusStore:
    """The `Census` of a real table. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def metrics(self, agent: str, ranges: Sequence[Range]) -> list[str]:
        """Metrics of an agent that have rows within the ranges."""
        with unavailable("list the metrics of an agent"):
            rows = await self._pool.fetch(_METRICS, agent, *_bounds(ranges), timeout=300)
        return [row["metric_name"] for row in rows]

    async def rows(
        self, agent: str, metric: str, ranges: Sequence[Range]
    ) -> list[tuple[int, float | None]]:
        """Time in microseconds, and value, of every row within the ranges."""
        with unavailable("read the rows of a series"):
            rows = await self._pool.fetch(_ROWS, agent, metric, *_bounds(ranges), timeout=300)
        return [((time - _EPOCH) // _MICROSECOND, value) for time, value in rows]


def _bounds(ranges: Sequence[Range]) -> tuple[list[datetime], list[datetime]]:
    moments = [[_EPOCH + timedelta(microseconds=us) for us in ends] for ends in ranges]
    return [first for first, _ in moments], [last for _, last in moments]
