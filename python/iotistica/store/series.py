"""Reads series back. Each query checks in the same statement that the agent is the tenant's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from iotistica.store.pool import Pool, unavailable

_COLUMNS = """
    reading.time, reading.agent_uuid, reading.metric_name, reading.value, reading.quality,
    reading.unit, reading.protocol, reading.extra, reading.anomaly_score,
    reading.anomaly_threshold
"""

# One row without a reading says that the agent exists and has none; no row, that it is not ours.
# The primary key finds the newest of one metric. For all metrics of an agent, readings_latest
# names them, and the newest of each are merged: a plain ORDER BY time would sort its whole past.
_ONE_METRIC = f"""
SELECT {_COLUMNS} FROM agents LEFT JOIN LATERAL (
    SELECT * FROM readings
    WHERE agent_uuid = agents.uuid AND metric_name = $3
      AND time >= coalesce($4, '-infinity'::timestamptz)
      AND time <= coalesce($5, 'infinity'::timestamptz)
      AND ($6::text IS NULL OR protocol = $6)
    ORDER BY time DESC LIMIT $7
) AS reading ON true
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""  # noqa: S608 (constants only)
_ALL_METRICS = f"""
SELECT {_COLUMNS} FROM agents LEFT JOIN LATERAL (
    SELECT newest.* FROM (
        SELECT DISTINCT metric_name FROM readings_latest WHERE agent_uuid = agents.uuid
    ) AS series CROSS JOIN LATERAL (
        SELECT * FROM readings
        WHERE agent_uuid = agents.uuid AND metric_name = series.metric_name
          AND time >= coalesce($3, '-infinity'::timestamptz)
          AND time <= coalesce($4, 'infinity'::timestamptz)
          AND ($5::text IS NULL OR protocol = $5)
        ORDER BY time DESC LIMIT $6
    ) AS newest
    ORDER BY newest.time DESC, newest.metric_name LIMIT $6
) AS reading ON true
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""  # noqa: S608 (constants only)
_LATEST = """
SELECT reading.time, reading.agent_uuid, reading.device_name, reading.metric_name,
       reading.value, reading.quality, reading.unit, reading.protocol
FROM agents LEFT JOIN readings_latest AS reading
    ON reading.agent_uuid = agents.uuid
   AND ($3::text[] IS NULL OR reading.metric_name = ANY ($3))
WHERE agents.tenant_id = $1 AND agents.uuid = $2
ORDER BY reading.metric_name, reading.device_name
"""
_DEVICE_TIMES = """
SELECT reading.device_name, max(reading.time) AS time
FROM agents JOIN readings_latest AS reading ON reading.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1 AND agents.uuid = $2
GROUP BY reading.device_name
"""

Rows = list[asyncpg.Record]


class SeriesStore:
    """Queries on readings. Every method raises `StoreUnavailable`, and gives None for an agent
    that is unknown or another tenant's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def timeseries(
        self,
        tenant: str,
        agent: UUID,
        *,
        metric: str | None = None,
        protocol: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int,
    ) -> Rows | None:
        """Raw readings, newest first."""
        window = (start, end, protocol, limit)
        if metric is None:
            return await self._fetch(_ALL_METRICS, tenant, agent, *window)
        return await self._fetch(_ONE_METRIC, tenant, agent, metric, *window)

    async def latest(
        self, tenant: str, agent: UUID, *, metrics: Sequence[str] | None = None
    ) -> Rows | None:
        """Newest reading of each series, whatever the size of the table."""
        return await self._fetch(_LATEST, tenant, agent, metrics)

    async def device_times(self, tenant: str, agent: UUID) -> dict[str, datetime]:
        """Time of the newest reading of each device behind an agent, by its name."""
        with unavailable("read readings"):
            rows = await self._pool.fetch(_DEVICE_TIMES, tenant, agent)
        return {row["device_name"]: row["time"] for row in rows}

    async def _fetch(self, statement: str, *arguments: Any) -> Rows | None:
        with unavailable("read readings"):
            rows = await self._pool.fetch(statement, *arguments)
        if not rows:
            return None
        return [] if rows[0]["time"] is None else rows
