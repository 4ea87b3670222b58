"""Writes anomaly events, their incidents and alerts: one transaction for a batch.

All writers of a fingerprint wait for each other, so that one incident is opened whichever process
gets which event, and an event that comes again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from iotistica.anomalies.event import Anomaly
from iotistica.anomalies.incident import HOUR_MS, Alert, Incident, Occurrence, place
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.store.webhooks import announce_anomalies

# Always in the same order, so that two batches never wait for each other in a circle.
_LOCK = """
SELECT pg_advisory_xact_lock(key) FROM (
    SELECT DISTINCT hashtextextended(tenant || '/' || fingerprint, 4) AS key
    FROM unnest($1::text[], $2::text[]) AS new (tenant, fingerprint)
    ORDER BY key
) AS ordered
"""
_KNOWN = """
SELECT event.agent_uuid::text, event.fingerprint, event.timestamp_ms, event.metric, NULL AS msg_id
FROM jsonb_to_recordset($1::jsonb)
     AS new (agent uuid, fingerprint text, timestamp_ms bigint, metric text)
JOIN anomaly_events AS event
  ON event.agent_uuid = new.agent AND event.fingerprint = new.fingerprint
 AND event.timestamp_ms = new.timestamp_ms AND event.metric = new.metric
UNION ALL
SELECT event.agent_uuid::text, NULL, NULL, NULL, event.msg_id
FROM jsonb_to_recordset($1::jsonb) AS new (agent uuid, msg_id text)
JOIN anomaly_events AS event ON event.agent_uuid = new.agent AND event.msg_id = new.msg_id
"""
_INCIDENTS = """
SELECT incident.incident_id, incident.tenant_id, incident.fingerprint, incident.metric,
       incident.severity, incident.status, incident.alerted, incident.affected_devices,
       incident.affected_agents::text[] AS affected_agents, incident.event_count,
       incident.max_anomaly_score, incident.max_confidence,
       (extract(epoch FROM incident.opened_at) * 1000)::bigint AS opened_ms,
       (extract(epoch FROM incident.first_seen) * 1000)::bigint AS first_ms,
       (extract(epoch FROM incident.last_seen) * 1000)::bigint AS last_ms,
       (extract(epoch FROM incident.resolved_at) * 1000)::bigint AS resolved_ms
FROM jsonb_to_recordset($1::jsonb)
     AS near (tenant text, fingerprint text, first_ms bigint, last_ms bigint)
JOIN anomaly_incidents AS incident
  ON incident.tenant_id = near.tenant AND incident.fingerprint = near.fingerprint
 AND incident.opened_at > timestamptz 'epoch' + near.first_ms * interval '1 millisecond'
 AND incident.opened_at < timestamptz 'epoch' + near.last_ms * interval '1 millisecond'
FOR UPDATE OF incident
"""
_OPEN = """
INSERT INTO anomaly_incidents
    (tenant_id, fingerprint, metric, severity, status, alerted, affected_devices, affected_agents,
     opened_at, first_seen, last_seen, max_anomaly_score, max_confidence, event_count)
SELECT tenant, fingerprint, metric, severity, status, alerted, devices, agents,
       timestamptz 'epoch' + opened_ms * interval '1 millisecond',
       timestamptz 'epoch' + first_ms * interval '1 millisecond',
       timestamptz 'epoch' + last_ms * interval '1 millisecond', score, confidence, events
FROM jsonb_to_recordset($1::jsonb) AS new (
    tenant text, fingerprint text, metric text, severity text, status text, alerted text,
    devices text[], agents uuid[], opened_ms bigint, first_ms bigint, last_ms bigint,
    score double precision, confidence double precision, events bigint)
RETURNING incident_id, tenant_id, fingerprint,
          (extract(epoch FROM opened_at) * 1000)::bigint AS opened_ms
"""
_UPDATE = """
UPDATE anomaly_incidents AS incident
SET severity = new.severity, alerted = new.alerted, affected_devices = new.devices,
    affected_agents = new.agents, max_anomaly_score = new.score, max_confidence = new.confidence,
    first_seen = timestamptz 'epoch' + new.first_ms * interval '1 millisecond',
    last_seen = timestamptz 'epoch' + new.last_ms * interval '1 millisecond',
    event_count = new.events, status = new.status,
    -- One that is back is nobody's business yet.
    resolved_at = CASE WHEN new.status = 'resolved' THEN resolved_at END,
    resolved_by = CASE WHEN new.status = 'resolved' THEN resolved_by END,
    acknowledged_at = CASE WHEN incident.status = 'resolved' AND new.status <> 'resolved'
                           THEN NULL ELSE acknowledged_at END,
    acknowledged_by = CASE WHEN incident.status = 'resolved' AND new.status <> 'resolved'
                           THEN NULL ELSE acknowledged_by END
FROM jsonb_to_recordset($1::jsonb) AS new (
    id bigint, severity text, status text, alerted text, devices text[], agents uuid[],
    first_ms bigint, last_ms bigint, score double precision, confidence double precision,
    events bigint)
WHERE incident.incident_id = new.id
"""
_EVENTS = """
INSERT INTO anomaly_events
    (tenant_id, msg_id, agent_uuid, device_name, device_uuid, device_type, device_state, metric,
     endpoint_uuid, timestamp_ms, window_start_ms, window_end_ms, observed_value, baseline,
     anomaly_score, confidence, severity, severity_reason, triggered_by, suppressed,
     expected_range, deviation, fingerprint, cooldown_sec, first_seen_ms, consecutive_count,
     event_count, incident_id)
SELECT tenant, msg_id, agent, device_name, device_uuid, device_type, device_state, metric,
       endpoint_uuid, timestamp_ms, window_start_ms, window_end_ms, observed_value, baseline,
       anomaly_score, confidence, severity, severity_reason, triggered_by, suppressed,
       expected_range, deviation, fingerprint, cooldown_sec, first_seen_ms, consecutive_count,
       event_count, incident_id
FROM jsonb_to_recordset($1::jsonb) AS new (
    tenant text, msg_id text, agent uuid, device_name text, device_uuid text, device_type text,
    device_state text, metric text, endpoint_uuid uuid, timestamp_ms bigint,
    window_start_ms bigint, window_end_ms bigint, observed_value double precision, baseline jsonb,
    anomaly_score double precision, confidence double precision, severity text,
    severity_reason text, triggered_by text[], suppressed boolean,
    expected_range double precision[], deviation double precision, fingerprint text,
    cooldown_sec double precision, first_seen_ms bigint, consecutive_count bigint,
    event_count bigint, incident_id bigint)
"""
_ALERTS = """
INSERT INTO anomaly_alerts
    (tenant_id, incident_id, agent_uuid, device_name, metric, fingerprint, severity,
     previous_severity, message, observed_value)
SELECT tenant, incident_id, agent, device_name, metric, fingerprint, severity, previous, message,
       observed_value
FROM jsonb_to_recordset($1::jsonb) AS new (
    tenant text, incident_id bigint, agent uuid, device_name text, metric text, fingerprint text,
    severity text, previous text, message text, observed_value double precision)
RETURNING alert_id
"""


@dataclass(slots=True, kw_only=True)
class Found:
    """An event with where it came from; what became of it is filled in by `AnomalyStore.keep`."""

    tenant: str
    agent: str
    metric: str
    """Without the ids before it."""
    endpoint: str | None
    event: Anomaly
    incident_id: int | None = None
    alert: Alert | None = None
    is_new: bool = False

    @property
    def natural_key(self) -> tuple[str, str, int, str]:
        """What tells it from every other event."""
        return self.agent, self.event.fingerprint, self.event.timestamp_ms, self.metric

    def occurrence(self) -> Occurrence:
        """As incidents see it."""
        event = self.event
        return Occurrence(
            at_ms=event.timestamp_ms,
            agent=self.agent,
            device=event.device_name or "",
            metric=self.metric,
            severity=event.severity,
            suppressed=bool(event.suppressed),
            score=event.anomaly_score,
            confidence=event.confidence,
        )

    def message(self) -> str:
        """One sentence for a person."""
        event = self.event
        where = f" of {event.device_name}" if event.device_name else ""
        what = f"{self.metric}{where} is anomalous"
        if event.observed_value is not None:
            what = f"{self.metric}{where} is {event.observed_value:g}"
        if event.expected_range is not None:
            low, high = event.expected_range
            what += f"; expected is {_bound(low)} to {_bound(high)}"
        return f"{what} ({event.severity_reason})" if event.severity_reason else what


@dataclass(slots=True)
class _Work:
    """Incidents of the batch by fingerprint, and where its events went."""

    incidents: dict[tuple[str, str], list[Incident]] = field(default_factory=dict)
    places: list[tuple[Found, Incident | None]] = field(default_factory=list)


class AnomalyStore:
    """The write side of anomalies. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keep(self, events: Sequence[Found]) -> None:
        """Store events, in order of arrival, and fill in what became of each."""
        if not events:
            return
        with unavailable("store anomalies"):
            async with self._pool.acquire() as connection, connection.transaction():
                await _keep(connection, events)


async def _keep(connection: Connection, events: Sequence[Found]) -> None:
    tenants, fingerprints = [e.tenant for e in events], [e.event.fingerprint for e in events]
    await connection.execute(_LOCK, tenants, fingerprints)
    fresh = await _fresh(connection, events)
    if not fresh:
        return
    work = _Work(await _load(connection, fresh))
    for one in fresh:
        one.is_new = True
        incidents = work.incidents.setdefault((one.tenant, one.event.fingerprint), [])
        incident, one.alert = place(incidents, one.occurrence())
        work.places.append((one, incident))
    await _store(connection, work)
    for one, incident in work.places:
        one.incident_id = None if incident is None else incident.id
    await connection.execute(_EVENTS, _json(_row(one) for one in fresh))
    alerts = [_alert_row(one) for one in fresh if one.alert is not None]
    if alerts:
        rows = await connection.fetch(_ALERTS, _json(alerts))
        await announce_anomalies(connection, [row["alert_id"] for row in rows])


async def _fresh(connection: Connection, events: Sequence[Found]) -> list[Found]:
    """Those that are not stored, each once."""
    rows = await connection.fetch(_KNOWN, _json(_row(one) for one in events))
    known = {(row[0], row[1], row[2], row[3]) for row in rows if row["msg_id"] is None}
    named = {(row[0], row["msg_id"]) for row in rows if row["msg_id"] is not None}
    fresh = []
    for one in events:
        name = (one.agent, one.event.msg_id)
        if one.natural_key in known or name in named:
            continue
        known.add(one.natural_key)
        if one.event.msg_id is not None:
            named.add(name)
        fresh.append(one)
    return fresh


async def _load(
    connection: Connection, events: Sequence[Found]
) -> dict[tuple[str, str], list[Incident]]:
    spans: dict[tuple[str, str], list[int]] = {}
    for one in events:
        spans.setdefault((one.tenant, one.event.fingerprint), []).append(one.event.timestamp_ms)
    near = [
        {
            "tenant": tenant,
            "fingerprint": fingerprint,
            "first_ms": min(times) - HOUR_MS,
            "last_ms": max(times) + HOUR_MS,
        }
        for (tenant, fingerprint), times in spans.items()
    ]
    found: dict[tuple[str, str], list[Incident]] = {}
    for row in await connection.fetch(_INCIDENTS, _json(near)):
        incident = Incident(
            id=row["incident_id"],
            metric=row["metric"],
            severity=row["severity"],
            opened_ms=row["opened_ms"],
            first_ms=row["first_ms"],
            last_ms=row["last_ms"],
            status=row["status"],
            resolved_ms=row["resolved_ms"],
            alerted=row["alerted"],
            score=row["max_anomaly_score"],
            confidence=row["max_confidence"],
            events=row["event_count"],
            devices=set(row["affected_devices"]),
            agents=set(row["affected_agents"]),
        )
        found.setdefault((row["tenant_id"], row["fingerprint"]), []).append(incident)
    return found


async def _store(connection: Connection, work: _Work) -> None:
    opened: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for (tenant, fingerprint), incidents in work.incidents.items():
        for one in incidents:
            row = {"tenant": tenant, "fingerprint": fingerprint, **_incident_row(one)}
            if one.id is None:
                opened.append(row)
            elif one.changed:
                changed.append(row)
    if changed:
        await connection.execute(_UPDATE, _json(changed))
    if opened:
        ids = {
            (row["tenant_id"], row["fingerprint"], row["opened_ms"]): row["incident_id"]
            for row in await connection.fetch(_OPEN, _json(opened))
        }
        for (tenant, fingerprint), incidents in work.incidents.items():
            for one in incidents:
                one.id = one.id or ids[tenant, fingerprint, one.opened_ms]


def _incident_row(one: Incident) -> dict[str, Any]:
    return {
        "id": one.id,
        "metric": one.metric,
        "severity": one.severity,
        "status": one.status,
        "alerted": one.alerted,
        "devices": sorted(one.devices),
        "agents": sorted(one.agents),
        "opened_ms": one.opened_ms,
        "first_ms": one.first_ms,
        "last_ms": one.last_ms,
        "score": one.score,
        "confidence": one.confidence,
        "events": one.events,
    }


def _row(one: Found) -> dict[str, Any]:
    event = one.event
    return {
        **{name: getattr(event, name) for name in event.__struct_fields__},
        "tenant": one.tenant,
        "agent": one.agent,
        "metric": one.metric,
        "endpoint_uuid": one.endpoint,
        "baseline": None if event.baseline is None else msgspec.to_builtins(event.baseline),
        "device_name": event.device_name or "",
        "device_type": event.device_type or "",
        "triggered_by": event.triggered_by or [],
        "suppressed": bool(event.suppressed),
        "first_seen_ms": event.first_seen_ms,
        "incident_id": one.incident_id,
    }


def _alert_row(one: Found) -> dict[str, Any]:
    assert one.alert is not None
    return {
        "tenant": one.tenant,
        "incident_id": one.incident_id,
        "agent": one.agent,
        "device_name": one.event.device_name or "",
        "metric": one.metric,
        "fingerprint": one.event.fingerprint,
        "severity": one.alert.severity,
        "previous": one.alert.previous,
        "message": one.message(),
        "observed_value": one.event.observed_value,
    }


def _json(rows: Iterable[dict[str, Any]]) -> str:
    return orjson.dumps(list(rows)).decode()


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"
