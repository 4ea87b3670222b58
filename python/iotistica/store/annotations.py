"""What happened within a range of time, to be shown on top of series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots

_INCIDENTS = """
SELECT first_seen AS time, last_seen AS until, severity, 'incident: ' || metric AS title,
       event_count || ' events, ' || status AS text,
       array_cat(ARRAY['incident', severity, status, metric], affected_devices) AS tags
FROM anomaly_incidents
WHERE tenant_id = $1 AND last_seen >= $2 AND first_seen <= $3
  AND ($4::uuid[] IS NULL OR affected_agents && $4) AND ($5::text IS NULL OR severity = $5)
ORDER BY last_seen DESC LIMIT $6
"""
_ALERTS = """
SELECT opened_at AS time, coalesce(resolved_at, least(now(), $3)) AS until, severity,
       'alert: ' || rule_name AS title, message AS text,
       array_remove(ARRAY['alert', severity, status, metric_name, device_name], '') AS tags
FROM alerts
WHERE tenant_id = $1 AND (resolved_at IS NULL OR resolved_at >= $2) AND opened_at <= $3
  AND ($4::uuid[] IS NULL OR agent_uuid = ANY ($4)) AND ($5::text IS NULL OR severity = $5)
ORDER BY id DESC LIMIT $6
"""
_EVENTS = """
SELECT to_timestamp(timestamp_ms / 1000.0) AS time, NULL::timestamptz AS until, severity,
       'anomaly: ' || metric AS title,
       concat_ws(', ', 'value ' || observed_value, 'score ' || anomaly_score, severity_reason)
           AS text,
       array_remove(ARRAY['anomaly', severity, metric, device_name], '') AS tags
FROM anomaly_events
WHERE tenant_id = $1 AND timestamp_ms >= extract(epoch FROM $2::timestamptz) * 1000
  AND timestamp_ms <= extract(epoch FROM $3::timestamptz) * 1000
  AND ($4::uuid[] IS NULL OR agent_uuid = ANY ($4)) AND ($5::text IS NULL OR severity = $5)
  AND NOT suppressed
ORDER BY timestamp_ms DESC LIMIT $6
"""
_STATEMENTS = {"incidents": _INCIDENTS, "alerts": _ALERTS, "events": _EVENTS}

Source: TypeAlias = Literal["incidents", "alerts", "events"]
"""Incidents of anomalies, alerts of rules, single anomalies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which annotations; all of the source where nothing is said."""

    source: Source
    agents: Sequence[UUID] | None = None
    severity: str | None = None


class Annotations:
    """Reads annotations of a tenant."""

    def __init__(self, slots: QuerySlots) -> None:
        self._slots = slots

    async def between(
        self, tenant: str, wanted: Wanted, *, start: datetime, end: datetime, limit: int = 1000
    ) -> list[Row]:
        """Those that hold any time of the range, the newest first: `time`, `until` (NULL for what
        has no length), `severity`, `title`, `text`, `tags`.

        Raises `StoreUnavailable`, `TooSlow`, `Busy`.
        """
        async with self._slots.take("read annotations") as reader:
            return await reader.fetch(
                _STATEMENTS[wanted.source],
                *(tenant, start, end, wanted.agents, wanted.severity, limit),
            )
