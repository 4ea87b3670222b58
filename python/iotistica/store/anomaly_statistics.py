"""Anomaly events counted: of a tenant, or of one of its agents."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from iotistica.errors import NotFound
from iotistica.store.pool import Pool, unavailable

# One row at least for a tenant, and for an agent that is the tenant's.
_ASKED = """
    FROM (
        SELECT tenants.id AS tenant, agents.uuid AS agent
        FROM tenants LEFT JOIN agents ON agents.tenant_id = tenants.id AND agents.uuid = $2
        WHERE tenants.id = $1 AND ($2::uuid IS NULL OR agents.uuid IS NOT NULL)
    ) AS asked
    LEFT JOIN anomaly_events AS event
      ON event.tenant_id = asked.tenant
     AND (asked.agent IS NULL OR event.agent_uuid = asked.agent)
     AND event.timestamp_ms >= $3 AND event.timestamp_ms < $4
"""
_COUNTS = """
       count(event.id) AS total,
       count(*) FILTER (WHERE event.severity = 'info') AS info,
       count(*) FILTER (WHERE event.severity = 'warning') AS warning,
       count(*) FILTER (WHERE event.severity = 'critical') AS critical,
       count(*) FILTER (WHERE event.suppressed) AS suppressed,
       count(DISTINCT event.agent_uuid) AS agents,
       count(DISTINCT event.metric) AS metrics,
       max(event.anomaly_score) AS max_score,
       avg(event.anomaly_score) AS avg_score
"""
_SUMMARY = f"""
SELECT asked.tenant, {_COUNTS},
       count(DISTINCT event.incident_id) AS incidents,
       count(DISTINCT event.fingerprint) AS fingerprints,
       max(event.timestamp_ms) AS last_ms
{_ASKED}
GROUP BY asked.tenant
"""
_BUCKETS = f"""
SELECT event.timestamp_ms / $5 * $5 AS bucket_ms, {_COUNTS}
{_ASKED}
GROUP BY bucket_ms
ORDER BY bucket_ms
"""
_TOP = f"""
SELECT event.metric, {_COUNTS}, max(event.timestamp_ms) AS last_ms
{_ASKED}
GROUP BY event.metric
ORDER BY total DESC, event.metric
LIMIT $5
"""


class AnomalyStatistics:
    """Counts of anomaly events of `start <= time < end`.

    Every method raises `StoreUnavailable`, and `NotFound` for an agent that is not the tenant's.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def summary(
        self, tenant: str, agent: UUID | None, start: datetime, end: datetime
    ) -> asyncpg.Record:
        """All of them."""
        return (await self._fetch(_SUMMARY, tenant, agent, start, end))[0]

    async def buckets(
        self, tenant: str, agent: UUID | None, start: datetime, end: datetime, *, step_ms: int
    ) -> list[asyncpg.Record]:
        """By steps of time that had any, the oldest first."""
        rows = await self._fetch(_BUCKETS, tenant, agent, start, end, step_ms)
        return [row for row in rows if row["bucket_ms"] is not None]

    async def top_metrics(
        self, tenant: str, agent: UUID | None, start: datetime, end: datetime, *, limit: int
    ) -> list[asyncpg.Record]:
        """By metric, those with most events first."""
        rows = await self._fetch(_TOP, tenant, agent, start, end, limit)
        return [row for row in rows if row["metric"] is not None]

    async def _fetch(
        self,
        statement: str,
        tenant: str,
        agent: UUID | None,
        start: datetime,
        end: datetime,
        *more: Any,
    ) -> list[asyncpg.Record]:
        window = (_ms(start), _ms(end))
        with unavailable("count anomalies"):
            rows = await self._pool.fetch(statement, tenant, agent, *window, *more)
        if not rows:
            raise NotFound(f"agent {agent} does not exist")
        return rows


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
