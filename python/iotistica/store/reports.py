"""What agents report about themselves: merged into one row for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from iotistica.store.documents import json_text
from iotistica.store.pool import Pool, unavailable

SYSTEM_METRICS = (
    "cpu_usage",
    "cpu_temp",
    "memory_usage",
    "memory_total",
    "storage_usage",
    "storage_total",
)
"""Numbers that agents report of their machine (reference section 1.4)."""

_COLUMNS = ("apps", "config", "version")

# In the order of their agents, as every writer of many agents locks them.
_MERGE = """
INSERT INTO agent_current_state AS old
    (agent_uuid, apps, config, version, system_info, stamps, reported_at)
SELECT agents.uuid, new.apps, new.config, new.version, new.system_info, new.stamps, new.reported_at
FROM unnest($1::text[]::uuid[], $2::text[]::jsonb[], $3::text[]::jsonb[], $4::bigint[],
            $5::text[]::jsonb[], $6::text[]::jsonb[], $7::timestamptz[])
     AS new (agent_uuid, apps, config, version, system_info, stamps, reported_at)
JOIN agents ON agents.uuid = new.agent_uuid
ORDER BY agents.uuid
ON CONFLICT (agent_uuid) DO UPDATE
SET (apps, config, version, system_info, stamps, reported_at) = (
    SELECT apps, config, version, system_info, stamps, reported_at
    FROM agent_state_merge(old, excluded)
)
"""
# Compared with what the agent said last, which the merge reads anyway: nothing is written while an
# endpoint is as it was.
_NOTE_HEALTH = """
INSERT INTO endpoint_health
    (agent_uuid, name, time, status, connected, last_error, last_poll, error_count)
SELECT report.agent, one.name, report.at, now.status, now.connected, now.last_error, now.last_poll,
       now.error_count
FROM (
    SELECT agents.uuid AS agent, new.reported_at AS at, new.info -> 'endpoints_health' AS told,
           old.system_info -> 'endpoints_health' AS known
    FROM unnest($1::text[]::uuid[], $2::text[]::jsonb[], $3::text[]::jsonb[], $4::timestamptz[])
         AS new (agent_uuid, info, stamps, reported_at)
    JOIN agents ON agents.uuid = new.agent_uuid
    LEFT JOIN agent_current_state AS old ON old.agent_uuid = agents.uuid
    WHERE jsonb_typeof(new.info -> 'endpoints_health') = 'object'
      AND (new.stamps ->> 'endpoints_health')::bigint
          >= coalesce((old.stamps ->> 'endpoints_health')::bigint, 0)
    OFFSET 0 -- so that both are unpacked once for each agent
) AS report
CROSS JOIN LATERAL jsonb_each(report.told) AS one (name, health)
CROSS JOIN LATERAL (SELECT report.known -> one.name AS health OFFSET 0) AS before
CROSS JOIN LATERAL endpoint_standing(one.health) AS now
WHERE one.health IS DISTINCT FROM before.health
  AND endpoint_differs(one.health, before.health)
  AND length(one.name) <= 255
ORDER BY report.agent
ON CONFLICT (agent_uuid, name, time) DO NOTHING
"""
_HEALTH = """
INSERT INTO endpoint_health
    (agent_uuid, name, time, status, connected, last_error, last_poll, error_count)
SELECT agents.uuid, told.key, new.reported_at, now.status, now.connected, now.last_error,
       now.last_poll, now.error_count
FROM unnest($1::text[]::uuid[], $2::text[]::jsonb[], $3::text[]::jsonb[], $4::timestamptz[])
     AS new (agent_uuid, info, stamps, reported_at)
JOIN agents ON agents.uuid = new.agent_uuid
LEFT JOIN agent_current_state AS old ON old.agent_uuid = agents.uuid
CROSS JOIN LATERAL jsonb_each(
    CASE jsonb_typeof(new.info -> 'endpoints_health')
        WHEN 'object' THEN new.info -> 'endpoints_health' ELSE '{}' END
) AS told
CROSS JOIN LATERAL endpoint_standing(told.value) AS now
CROSS JOIN LATERAL endpoint_standing(
    old.system_info -> 'endpoints_health' -> told.key
) AS before
WHERE (new.stamps ->> 'endpoints_health')::bigint
          >= coalesce((old.stamps ->> 'endpoints_health')::bigint, 0)
  AND (now.status, now.connected, now.last_error)
          IS DISTINCT FROM (before.status, before.connected, before.last_error)
  AND length(told.key) <= 255
ORDER BY agents.uuid
ON CONFLICT (agent_uuid, name, time) DO NOTHING
"""
_HEALTH = """
SELECT health.status, health.connected, health.last_poll, health.error_count, health.last_error,
       health.time AS timestamp
FROM agents LEFT JOIN LATERAL (
    SELECT * FROM endpoint_health
    WHERE agent_uuid = agents.uuid AND name = $3 AND time > $4
    ORDER BY time DESC
    LIMIT $5
) AS health ON true
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""
_SHOW = """
UPDATE agents
SET ip_address = coalesce(info ->> 'ip_address', info ->> 'local_ip', ip_address),
    mac_address = coalesce(info ->> 'mac_address', mac_address),
    os_version = coalesce(info ->> 'os_version', os_version),
    architecture = coalesce(info ->> 'architecture', architecture),
    agent_version = coalesce(info ->> 'agent_version', agent_version),
    cpu_usage = json_number(info -> 'cpu_usage'),
    cpu_temp = json_number(info -> 'cpu_temp'),
    memory_usage = json_number(info -> 'memory_usage'),
    memory_total = json_number(info -> 'memory_total'),
    storage_usage = json_number(info -> 'storage_usage'),
    storage_total = json_number(info -> 'storage_total'),
    uptime = json_number(info -> 'uptime'),
    network_interfaces = info -> 'network_interfaces'
FROM (
    SELECT agents.uuid AS agent, state.system_info AS info
    FROM agents JOIN agent_current_state AS state ON state.agent_uuid = agents.uuid
    WHERE agents.uuid = ANY ($1::text[]::uuid[])
    ORDER BY agents.uuid FOR NO KEY UPDATE OF agents
) AS reported
WHERE uuid = agent
"""
_CURRENT = """
SELECT state.apps, state.config, state.version, state.system_info, state.reported_at
FROM agents LEFT JOIN agent_current_state AS state ON state.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""
_NEWEST_METRICS = """
SELECT reading.time, reading.metric_name, reading.value
FROM agents CROSS JOIN unnest($3::text[]) AS wanted (metric) LEFT JOIN LATERAL (
    SELECT time, metric_name, value FROM readings
    WHERE agent_uuid = agents.uuid AND metric_name = wanted.metric AND protocol = 'system'
    ORDER BY time DESC LIMIT $4
) AS reading ON true
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""
_BINNED_METRICS = """
SELECT reading.time, reading.metric_name, reading.value
FROM agents CROSS JOIN unnest($3::text[]) AS wanted (metric) LEFT JOIN LATERAL (
    SELECT date_bin($5::interval, time, $4::timestamptz) AS time, metric_name, avg(value) AS value
    FROM readings
    WHERE agent_uuid = agents.uuid AND metric_name = wanted.metric AND protocol = 'system'
      AND time >= $4
    GROUP BY 1, 2
) AS reading ON true
WHERE agents.tenant_id = $1 AND agents.uuid = $2
"""


@dataclass(slots=True)
class Report:
    """Fields of one agent, and when each was reported (epoch milliseconds)."""

    agent: str
    fields: dict[str, Any]
    """None is a field that was removed."""
    stamps: dict[str, int] = field(default_factory=dict)
    reported_ms: int = 0

    def add(self, later: Report) -> None:
        """Merge one that came in after it, by the rule of `agent_state_merge`."""
        for name, stamp in later.stamps.items():
            if stamp >= self.stamps.get(name, 0):
                self.fields[name] = later.fields[name]
                self.stamps[name] = stamp
        self.reported_ms = max(self.reported_ms, later.reported_ms)

    def row(self) -> tuple[Any, ...]:
        """Parameters of `_MERGE`."""
        info = {
            name: value
            for name, value in self.fields.items()
            if value is not None and name not in _COLUMNS
        }
        return (
            self.agent,
            _json(self.fields.get("apps")),
            _json(self.fields.get("config")),
            self.fields.get("version"),
            json_text(info),
            json_text(self.stamps),
            datetime.fromtimestamp(self.reported_ms / 1000, UTC),
        )


class ReportStore:
    """Current states. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def merge(self, reports: Sequence[Report]) -> None:
        """Merge reports, given in order of arrival, into the current states of their agents."""
        merged: dict[str, Report] = {}
        for one in reports:
            if one.agent in merged:
                merged[one.agent].add(one)
            else:
                fields, stamps = dict(one.fields), dict(one.stamps)
                merged[one.agent] = Report(one.agent, fields, stamps, one.reported_ms)
        columns = list(zip(*(report.row() for report in merged.values()), strict=True))
        if not columns:
            return
        with unavailable("store reports"):
            async with self._pool.acquire() as connection, connection.transaction():
                if any("endpoints_health" in one.fields for one in merged.values()):
                    told = (columns[place] for place in (0, 4, 5, 6))
                    await connection.execute(_NOTE_HEALTH, *told)
                await connection.execute(_MERGE, *columns)
                await connection.execute(_SHOW, columns[0])

    async def current(self, tenant: str, agent: UUID) -> asyncpg.Record | None:
        """The current state, all NULL where there is none; None where there is no such agent."""
        with unavailable("read a state"):
            return await self._pool.fetchrow(_CURRENT, tenant, agent)

    async def health(
        self, tenant: str, agent: UUID, name: str, *, since: datetime, limit: int
    ) -> list[dict[str, Any]] | None:
        """How the health of an endpoint changed, newest first; None for no such agent."""
        with unavailable("read the health of an endpoint"):
            rows = await self._pool.fetch(_HEALTH, tenant, agent, name, since, limit)
        if not rows:
            return None
        return [dict(row) for row in rows if row["timestamp"] is not None]

    async def newest_metrics(
        self, tenant: str, agent: UUID, *, limit: int
    ) -> list[dict[str, Any]] | None:
        """System metrics of the newest `limit` moments, newest first; None as above."""
        with unavailable("read system metrics"):
            rows = await self._pool.fetch(_NEWEST_METRICS, tenant, agent, SYSTEM_METRICS, limit)
        return _moments(rows)[:limit] if rows else None

    async def binned_metrics(
        self, tenant: str, agent: UUID, *, since: datetime, step_s: float
    ) -> list[dict[str, Any]] | None:
        """Averages of steps since a moment, newest first; None as above."""
        with unavailable("read system metrics"):
            rows = await self._pool.fetch(
                _BINNED_METRICS, tenant, agent, SYSTEM_METRICS, since, timedelta(seconds=step_s)
            )
        return _moments(rows) if rows else None


def _moments(rows: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
    moments: dict[datetime, dict[str, Any]] = {}
    for row in rows:
        if (at := row["time"]) is not None:
            empty = {"recorded_at": at, **dict.fromkeys(SYSTEM_METRICS)}
            moments.setdefault(at, empty)[row["metric_name"]] = row["value"]
    return [moments[at] for at in sorted(moments, reverse=True)]


def _json(value: Any) -> str | None:
    return None if value is None else json_text(value)
