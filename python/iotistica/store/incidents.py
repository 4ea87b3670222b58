"""Incidents and their alerts, for operators."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, Pool, unavailable

Rows = list[asyncpg.Record]

_COLUMNS = """
    incident_id, fingerprint, metric, severity, status, affected_devices,
    affected_agents::text[] AS affected_agents, opened_at, first_seen, last_seen,
    max_anomaly_score, max_confidence, event_count, acknowledged_at, acknowledged_by, resolved_at,
    resolved_by, resolution_notes, feedback, feedback_notes, feedback_at, feedback_by
"""
_LIST = f"""
SELECT {_COLUMNS} FROM anomaly_incidents
WHERE tenant_id = $1
  AND ($2::bigint IS NULL OR incident_id < $2)
  AND ($3::text IS NULL OR status = $3)
  AND ($4::text IS NULL OR severity = $4)
  AND ($5::text IS NULL OR metric = $5)
  AND ($6::text IS NULL OR fingerprint = $6)
  AND ($7::uuid IS NULL OR affected_agents @> ARRAY[$7])
  AND ($8::boolean IS NULL OR (acknowledged_at IS NOT NULL) = $8)
  AND ($9::timestamptz IS NULL OR last_seen >= $9)
  AND ($10::timestamptz IS NULL OR first_seen < $10)
ORDER BY incident_id DESC
LIMIT $11
"""  # noqa: S608 (constants only)
_GET = f"""
SELECT {_COLUMNS} FROM anomaly_incidents WHERE tenant_id = $1 AND incident_id = $2
"""  # noqa: S608 (constants only)
_LOCK = f"{_GET} FOR UPDATE"
_EVENTS = """
SELECT id, agent_uuid::text, device_name, metric, timestamp_ms, observed_value, anomaly_score,
       confidence, severity, severity_reason, suppressed, expected_range, deviation
FROM anomaly_events WHERE tenant_id = $1 AND incident_id = $2
ORDER BY timestamp_ms DESC, id DESC
LIMIT $3
"""
_STATS = """
SELECT count(*) AS total,
       count(*) FILTER (WHERE status = 'open') AS open,
       count(*) FILTER (WHERE status = 'active') AS active,
       count(*) FILTER (WHERE status = 'resolved') AS resolved,
       count(*) FILTER (WHERE acknowledged_at IS NOT NULL) AS acknowledged,
       count(*) FILTER (WHERE severity = 'info') AS info,
       count(*) FILTER (WHERE severity = 'warning') AS warning,
       count(*) FILTER (WHERE severity = 'critical') AS critical,
       count(*) FILTER (WHERE feedback = 'false_positive') AS false_positives,
       coalesce(sum(event_count), 0)::bigint AS events,
       avg(extract(epoch FROM acknowledged_at - opened_at))::float8 AS mean_acknowledge_s,
       avg(extract(epoch FROM resolved_at - opened_at))::float8 AS mean_resolve_s
FROM anomaly_incidents
WHERE tenant_id = $1
  AND ($2::timestamptz IS NULL OR last_seen >= $2)
  AND ($3::timestamptz IS NULL OR first_seen < $3)
"""
_ACKNOWLEDGE = """
UPDATE anomaly_incidents SET acknowledged_at = now(), acknowledged_by = $3
WHERE tenant_id = $1 AND incident_id = $2
"""
_RESOLVE = """
UPDATE anomaly_incidents
SET status = 'resolved', resolved_at = now(), resolved_by = $3, resolution_notes = $4,
    acknowledged_at = coalesce(acknowledged_at, now()),
    acknowledged_by = coalesce(acknowledged_by, $3)
WHERE tenant_id = $1 AND incident_id = $2
"""
_JUDGE = """
UPDATE anomaly_incidents
SET feedback = $4, feedback_notes = $5, feedback_at = now(), feedback_by = $3
WHERE tenant_id = $1 AND incident_id = $2
"""

_ALERT_COLUMNS = """
    alert_id, incident_id, agent_uuid::text, device_name, metric, fingerprint, severity,
    previous_severity, message, observed_value, status, created_at, acknowledged_at,
    acknowledged_by, resolved_at
"""
_ALERT_LIST = f"""
SELECT {_ALERT_COLUMNS} FROM anomaly_alerts
WHERE tenant_id = $1
  AND ($2::bigint IS NULL OR alert_id < $2)
  AND ($3::text IS NULL OR status = $3)
  AND ($4::text IS NULL OR severity = $4)
  AND ($5::uuid IS NULL OR agent_uuid = $5)
  AND ($6::bigint IS NULL OR incident_id = $6)
ORDER BY alert_id DESC
LIMIT $7
"""  # noqa: S608 (constants only)
_ALERT_GET = f"""
SELECT {_ALERT_COLUMNS} FROM anomaly_alerts WHERE tenant_id = $1 AND alert_id = $2
"""  # noqa: S608 (constants only)
_ALERT_LOCK = f"{_ALERT_GET} FOR UPDATE"
_ALERT_ACKNOWLEDGE = """
UPDATE anomaly_alerts SET status = 'acknowledged', acknowledged_at = now(), acknowledged_by = $3
WHERE tenant_id = $1 AND alert_id = $2
"""
_ALERTS_ACKNOWLEDGE = """
UPDATE anomaly_alerts SET status = 'acknowledged', acknowledged_at = now(), acknowledged_by = $3
WHERE tenant_id = $1 AND incident_id = $2 AND status = 'open'
"""
_ALERTS_RESOLVE = """
UPDATE anomaly_alerts SET status = 'resolved', resolved_at = now()
WHERE tenant_id = $1 AND incident_id = $2 AND status <> 'resolved'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which incidents; None is any. Those that were seen in `since <= time < until`."""

    status: str | None = None
    severity: str | None = None
    metric: str | None = None
    fingerprint: str | None = None
    agent: UUID | None = None
    acknowledged: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


class IncidentStore:
    """Incidents of anomalies. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, where: Filter, *, below: int | None, limit: int) -> Rows:
        """Incidents with a number below, the newest first."""
        with unavailable("list incidents"):
            return await self._pool.fetch(
                _LIST,
                tenant,
                below,
                where.status,
                where.severity,
                where.metric,
                where.fingerprint,
                where.agent,
                where.acknowledged,
                where.since,
                where.until,
                limit,
            )

    async def statistics(
        self, tenant: str, *, since: datetime | None, until: datetime | None
    ) -> asyncpg.Record:
        """Counts and mean times."""
        with unavailable("count incidents"):
            row = await self._pool.fetchrow(_STATS, tenant, since, until)
        assert row is not None  # an aggregate
        return row

    async def get(self, tenant: str, incident: int) -> asyncpg.Record:
        """One incident. Raises `NotFound`."""
        with unavailable("read an incident"):
            return _there(await self._pool.fetchrow(_GET, tenant, incident), incident)

    async def events(self, tenant: str, incident: int, *, limit: int) -> Rows:
        """Its events, the newest first."""
        with unavailable("read events of an incident"):
            return await self._pool.fetch(_EVENTS, tenant, incident, limit)

    async def acknowledge(self, origin: Origin, incident: int) -> asyncpg.Record:
        """Note who looks after it; the incident. Raises `NotFound`, `Conflict`."""
        with unavailable("acknowledge an incident"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = await _locked(connection, origin, incident)
                if before["status"] == "resolved":
                    raise Conflict(f"incident {incident} is resolved")
                if before["acknowledged_at"] is None:
                    key = (origin.tenant, incident, who(origin))
                    await connection.execute(_ACKNOWLEDGE, *key)
                    await connection.execute(_ALERTS_ACKNOWLEDGE, *key)
                    await _note(connection, origin, "acknowledged", before, {})
                return _there(await connection.fetchrow(_GET, origin.tenant, incident), incident)

    async def resolve(self, origin: Origin, incident: int, notes: str | None) -> asyncpg.Record:
        """Close it with its alerts; the incident. Raises `NotFound`, `Conflict`."""
        with unavailable("resolve an incident"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = await _locked(connection, origin, incident)
                if before["status"] == "resolved":
                    raise Conflict(f"incident {incident} is resolved already")
                key = (origin.tenant, incident)
                await connection.execute(_RESOLVE, *key, who(origin), notes)
                await connection.execute(_ALERTS_RESOLVE, *key)
                after = {"status": "resolved", "resolution_notes": notes}
                await _note(connection, origin, "resolved", before, after)
                return _there(await connection.fetchrow(_GET, *key), incident)

    async def judge(
        self, origin: Origin, incident: int, feedback: str, notes: str | None
    ) -> asyncpg.Record:
        """Note whether it was right to find it strange; the incident. Raises `NotFound`."""
        with unavailable("judge an incident"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = await _locked(connection, origin, incident)
                key = (origin.tenant, incident)
                await connection.execute(_JUDGE, *key, who(origin), feedback, notes)
                after = {"feedback": feedback, "feedback_notes": notes}
                await _note(connection, origin, "judged", before, after)
                return _there(await connection.fetchrow(_GET, *key), incident)

    # Alerts

    async def alerts(
        self,
        tenant: str,
        *,
        status: str | None = None,
        severity: str | None = None,
        agent: UUID | None = None,
        incident: int | None = None,
        below: int | None = None,
        limit: int,
    ) -> Rows:
        """Alerts with a number below, the newest first."""
        with unavailable("list alerts of anomalies"):
            return await self._pool.fetch(
                _ALERT_LIST, tenant, below, status, severity, agent, incident, limit
            )

    async def alert(self, tenant: str, alert: int) -> asyncpg.Record:
        """One alert. Raises `NotFound`."""
        with unavailable("read an alert of an anomaly"):
            return _alert_there(await self._pool.fetchrow(_ALERT_GET, tenant, alert), alert)

    async def acknowledge_alert(self, origin: Origin, alert: int) -> asyncpg.Record:
        """Note who looks after it; the alert. Raises `NotFound`, `Conflict`."""
        with unavailable("acknowledge an alert of an anomaly"):
            async with self._pool.acquire() as connection, connection.transaction():
                key = (origin.tenant, alert)
                before = _alert_there(await connection.fetchrow(_ALERT_LOCK, *key), alert)
                if before["status"] == "resolved":
                    raise Conflict(f"alert {alert} is resolved")
                if before["status"] == "open":
                    await connection.execute(_ALERT_ACKNOWLEDGE, *key, who(origin))
                    entry = Entry(
                        event_type="anomaly_alert.acknowledged",
                        subject=f"anomaly_alert/{alert}",
                        agent=UUID(before["agent_uuid"]),
                        before={"status": "open"},
                        after={"status": "acknowledged"},
                    )
                    await journal.record(connection, origin, entry)
                return _alert_there(await connection.fetchrow(_ALERT_GET, *key), alert)


def who(origin: Origin) -> str:
    """Name of whoever makes a change, as it is shown beside it."""
    return (origin.name or origin.id).replace("\0", "")[:255]


async def _locked(connection: Connection, origin: Origin, incident: int) -> asyncpg.Record:
    return _there(await connection.fetchrow(_LOCK, origin.tenant, incident), incident)


async def _note(
    connection: Connection,
    origin: Origin,
    verb: str,
    before: asyncpg.Record,
    after: dict[str, Any],
) -> None:
    entry = Entry(
        event_type=f"anomaly_incident.{verb}",
        subject=f"anomaly_incident/{before['incident_id']}",
        before={name: before[name] for name in after},
        after=after or {"acknowledged_by": who(origin)},
    )
    await journal.record(connection, origin, entry)


def _there(row: asyncpg.Record | None, incident: int) -> asyncpg.Record:
    if row is None:
        raise NotFound(f"incident {incident} does not exist")
    return row


def _alert_there(row: asyncpg.Record | None, alert: int) -> asyncpg.Record:
    if row is None:
        raise NotFound(f"alert {alert} does not exist")
    return row
