"""Models of anomalies, their incidents and alerts (reference sections 5.2 and 7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.errors import BadRequest
from iotistica.store.incidents import Filter

Number: TypeAlias = Annotated[int, Meta(ge=1, le=2**63 - 1)]
"""What identifies a row."""

Cursor: TypeAlias = Annotated[
    str, Meta(pattern=r"^[0-9]{1,18}$", extra_json_schema={"examples": ["4711"]})
]
"""Of an earlier answer: go on where it ended."""

PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Severity = Literal["info", "warning", "critical"]
Feedback = Literal["true_positive", "false_positive", "unsure"]

_DAY = timedelta(days=1)


def position(cursor: str | None) -> int | None:
    """The number that a cursor stands for."""
    return None if cursor is None else int(cursor)


class IncidentQuery(msgspec.Struct, kw_only=True):
    """Which incidents; all that are given must fit."""

    status: Literal["open", "active", "resolved"] | None = None
    severity: Severity | None = None
    metric: Text | None = None
    fingerprint: Text | None = None
    agent: UUID | None = None
    acknowledged: bool | None = None
    since: Time | None = None
    until: Time | None = None
    limit: PageSize = 50
    cursor: Cursor | None = None

    def filter(self) -> Filter:
        """As the store takes it. Raises `BadRequest`."""
        return Filter(
            status=self.status,
            severity=self.severity,
            metric=self.metric,
            fingerprint=self.fingerprint,
            agent=self.agent,
            acknowledged=self.acknowledged,
            since=None if self.since is None else window.moment("since", self.since),
            until=None if self.until is None else window.moment("until", self.until),
        )


class SpanQuery(msgspec.Struct, kw_only=True):
    """Incidents that were seen between two times."""

    since: Time | None = None
    until: Time | None = None


class IncidentView(msgspec.Struct, kw_only=True):
    """An incident: what one fingerprint did within about an hour."""

    incident_id: int
    fingerprint: str
    metric: str
    severity: Severity
    status: Literal["open", "active", "resolved"]
    """`open` with its first event, `active` with more."""
    affected_devices: list[str]
    affected_agents: list[str]
    opened_at: datetime
    first_seen: datetime
    last_seen: datetime
    max_anomaly_score: float | None
    max_confidence: float | None
    event_count: int
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_notes: str | None
    feedback: Feedback | None
    feedback_notes: str | None
    feedback_at: datetime | None
    feedback_by: str | None


class IncidentPage(msgspec.Struct):
    """Incidents, the newest first."""

    count: int
    incidents: list[IncidentView]
    cursor: str | None


class EventView(msgspec.Struct, kw_only=True):
    """An event of an incident."""

    id: int
    agent_uuid: str
    device_name: str
    metric: str
    timestamp_ms: int
    observed_value: float | None
    anomaly_score: float | None
    confidence: float | None
    severity: Severity
    severity_reason: str | None
    suppressed: bool
    expected_range: list[float | None] | None
    deviation: float | None


class AnomalyAlertView(msgspec.Struct, kw_only=True):
    """An alert: an incident that is new, or worse than it was."""

    alert_id: int
    incident_id: int
    agent_uuid: str
    device_name: str
    metric: str
    fingerprint: str
    severity: Severity
    previous_severity: Severity | None
    message: str
    observed_value: float | None
    status: Literal["open", "acknowledged", "resolved"]
    created_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None


class IncidentDetail(IncidentView, kw_only=True):
    """An incident with its newest events and its alerts."""

    events: list[EventView]
    alerts: list[AnomalyAlertView]


class IncidentStatistics(msgspec.Struct, kw_only=True):
    """Incidents counted; mean times in seconds from the first event on."""

    total: int
    open: int
    active: int
    resolved: int
    acknowledged: int
    info: int
    warning: int
    critical: int
    false_positives: int
    events: int
    mean_acknowledge_s: float | None
    mean_resolve_s: float | None


class Resolution(msgspec.Struct, forbid_unknown_fields=True):
    """How an incident ended."""

    resolution_notes: Text | None = None


class Judgment(msgspec.Struct, forbid_unknown_fields=True):
    """Whether it was right to find it strange."""

    feedback: Feedback
    feedback_notes: Text | None = None


class AnomalyAlertQuery(msgspec.Struct, kw_only=True):
    """Which alerts; all that are given must fit."""

    status: Literal["open", "acknowledged", "resolved"] | None = None
    severity: Literal["warning", "critical"] | None = None
    agent: UUID | None = None
    incident: Number | None = None
    limit: PageSize = 50
    cursor: Cursor | None = None


class AnomalyAlertPage(msgspec.Struct):
    """Alerts, the newest first."""

    count: int
    alerts: list[AnomalyAlertView]
    cursor: str | None


class WindowQuery(msgspec.Struct, kw_only=True):
    """Events of `start <= time < end`; the last 24 hours where nothing is given."""

    start: Time | None = None
    end: Time | None = None

    def span(self, default: timedelta = _DAY) -> tuple[datetime, datetime]:
        """Both times. Raises `BadRequest`."""
        end = datetime.now(UTC) if self.end is None else window.moment("end", self.end)
        try:
            start = end - default if self.start is None else window.moment("start", self.start)
        except OverflowError:
            raise BadRequest(f"parameter end ({end.isoformat()}) is too early") from None
        if start > end:
            raise BadRequest(f"parameter start ({start.isoformat()}) is after end")
        return start, end


class TopQuery(WindowQuery, kw_only=True):
    """Which events, and how many metrics."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 10


class Counts(msgspec.Struct, kw_only=True):
    """Events counted."""

    total: int
    info: int
    warning: int
    critical: int
    suppressed: int
    agents: int
    metrics: int
    max_score: float | None
    avg_score: float | None


class AnomalySummary(Counts, kw_only=True):
    """Events counted between two times."""

    start: datetime
    end: datetime
    incidents: int
    fingerprints: int
    last_at: datetime | None


class AnomalyBucket(Counts, kw_only=True):
    """Events counted of one hour or day (UTC)."""

    bucket: datetime


class AnomalyBuckets(msgspec.Struct):
    """Hours or days that had events, the oldest first."""

    count: int
    buckets: list[AnomalyBucket]


class MetricCounts(Counts, kw_only=True):
    """Events counted of one metric."""

    metric: str
    last_at: datetime


class TopMetrics(msgspec.Struct):
    """Metrics, those with most events first."""

    count: int
    metrics: list[MetricCounts]
