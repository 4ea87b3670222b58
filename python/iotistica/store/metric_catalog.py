"""What a tenant measures, of the newest row that ingestion keeps of each series: never a search of
the readings, and nothing that would have to be refreshed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots

_CATALOG = """
SELECT l.metric_name, nullif(l.unit, '') AS unit, l.protocol,
       count(DISTINCT l.agent_uuid) AS agents, count(*) AS series, max(l.time) AS last_seen
FROM agents JOIN (
    SELECT agent_uuid, metric_name, coalesce(unit, '') COLLATE "C" AS unit,
           protocol COLLATE "C" AS protocol, time
    FROM readings_latest
) AS l ON l.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1
  AND ($2::text IS NULL OR position(lower($2) IN lower(l.metric_name)) > 0)
  AND ($3::text IS NULL OR (l.metric_name, l.unit, l.protocol) > ($3, $4, $5))
GROUP BY l.metric_name, l.unit, l.protocol
ORDER BY l.metric_name, l.unit, l.protocol LIMIT $6
"""
_AGENTS = """
SELECT agents.uuid::text AS agent_uuid, agents.name AS agent_name, l.*
FROM agents CROSS JOIN LATERAL (
    SELECT count(DISTINCT metric_name) AS metrics,
           count(DISTINCT device_name) FILTER (WHERE device_name <> '') AS devices,
           count(*) AS series, max(time) AS last_seen
    FROM readings_latest WHERE agent_uuid = agents.uuid HAVING count(*) > 0
) AS l
WHERE agents.tenant_id = $1 AND ($2::uuid IS NULL OR agents.uuid > $2)
ORDER BY agents.uuid LIMIT $3
"""
_LATEST = """
SELECT l.agent_uuid::text AS agent_uuid, agents.name AS agent_name,
       nullif(l.device_name, '') AS device_name, l.metric_name, l.value, l.quality, l.unit,
       l.protocol, l.time
FROM agents JOIN readings_latest AS l ON l.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1
  AND ($2::uuid IS NULL OR agents.uuid = $2)
  AND ($3::text IS NULL OR l.device_name = $3)
  AND ($4::text IS NULL OR l.metric_name = $4)
  AND ($5::uuid IS NULL OR (l.agent_uuid, l.device_name, l.metric_name) > ($5, $6, $7))
ORDER BY l.agent_uuid, l.device_name, l.metric_name LIMIT $8
"""
_HEALTH = """
SELECT count(*) AS agents_total, count(l.stored) AS agents_known,
       count(*) FILTER (WHERE l.stored > now() - $2::interval) AS agents_reporting,
       coalesce(sum(l.series), 0)::bigint AS series_total, max(l.time) AS last_reading_time,
       max(l.stored) AS last_stored_at
FROM agents CROSS JOIN LATERAL (
    SELECT count(*) AS series, max(time) AS time, max(updated_at) AS stored
    FROM readings_latest WHERE agent_uuid = agents.uuid
) AS l
WHERE agents.tenant_id = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which series; all where nothing is said."""

    agent: UUID | None = None
    device: str | None = None
    metric: str | None = None


class MetricCatalog:
    """Every method raises `StoreUnavailable`, `TooSlow`, `Busy`."""

    def __init__(self, slots: QuerySlots) -> None:
        self._slots = slots

    async def metrics(
        self, tenant: str, *, search: str | None, after: tuple[str, str, str] | None, limit: int
    ) -> list[Row]:
        """Metrics by name, unit (empty where there is none) and protocol."""
        place = after or (None, None, None)
        async with self._slots.take("read the catalog") as reader:
            return await reader.fetch(_CATALOG, tenant, search, *place, limit)

    async def agents(self, tenant: str, *, after: UUID | None, limit: int) -> list[Row]:
        """Agents that have sent readings, by their uuid."""
        async with self._slots.take("read the catalog") as reader:
            return await reader.fetch(_AGENTS, tenant, after, limit)

    async def latest(
        self, tenant: str, wanted: Wanted, *, after: tuple[UUID, str, str] | None, limit: int
    ) -> list[Row]:
        """The newest reading of each series, by agent, device (may be empty) and metric."""
        place = after or (None, None, None)
        chosen = (wanted.agent, wanted.device, wanted.metric)
        async with self._slots.take("read the newest readings") as reader:
            return await reader.fetch(_LATEST, tenant, *chosen, *place, limit)

    async def health(self, tenant: str, *, silent_after: timedelta) -> Row:
        """How many agents report, and when something was stored last."""
        async with self._slots.take("read the newest readings") as reader:
            [row] = await reader.fetch(_HEALTH, tenant, silent_after)
            return row
