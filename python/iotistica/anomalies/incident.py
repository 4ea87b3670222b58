"""How events add up to incidents, and which of them are worth an alert. Pure.

An event belongs to the incident of its fingerprint that was opened less than an hour before or
after it; where there is none, it opens one. So incidents of one fingerprint are opened an hour
apart at least, in whichever order events come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from iotistica.anomalies.event import SEVERITIES, Severity

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What incidents take of an event."""

    at_ms: int
    agent: str
    device: str
    metric: str
    severity: Severity
    suppressed: bool = False
    score: float | None = None
    confidence: float | None = None


@dataclass(slots=True, kw_only=True)
class Incident:
    """An incident under work; `id` is None until it is stored."""

    id: int | None = None
    metric: str
    severity: Severity
    opened_ms: int
    first_ms: int
    last_ms: int
    status: str = "open"
    resolved_ms: int | None = None
    alerted: Severity | None = None
    score: float | None = None
    confidence: float | None = None
    events: int = 0
    devices: set[str] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)
    changed: bool = False

    def add(self, one: Occurrence) -> None:
        """Count an event in."""
        if self.status == "resolved" and not one.suppressed and one.at_ms > (self.resolved_ms or 0):
            # It is back, and as much news as at first.
            self.status, self.resolved_ms, self.alerted = "active", None, None
        elif self.status == "open" and self.events:
            self.status = "active"
        self.severity = _higher(self.severity, one.severity)
        self.first_ms = min(self.first_ms, one.at_ms)
        self.last_ms = max(self.last_ms, one.at_ms)
        self.score = _larger(self.score, one.score)
        self.confidence = _larger(self.confidence, one.confidence)
        self.events += 1
        self.agents.add(one.agent)
        if one.device:
            self.devices.add(one.device)
        self.changed = True


@dataclass(frozen=True, slots=True)
class Alert:
    """A severity that an incident reached, and what was alerted before."""

    severity: Severity
    previous: Severity | None


def place(incidents: list[Incident], one: Occurrence) -> tuple[Incident | None, Alert | None]:
    """Where an event belongs among the incidents of its fingerprint, and the alert it is worth.

    A suppressed event neither opens an incident nor is worth an alert.
    """
    incident = _nearest(incidents, one.at_ms)
    if incident is None:
        if one.suppressed:
            return None, None
        incident = Incident(
            metric=one.metric,
            severity=one.severity,
            opened_ms=one.at_ms,
            first_ms=one.at_ms,
            last_ms=one.at_ms,
        )
        incidents.append(incident)
    incident.add(one)
    if one.suppressed or incident.status == "resolved":
        return incident, None
    return incident, _alert(incident, one.severity)


def _alert(incident: Incident, severity: Severity) -> Alert | None:
    previous = incident.alerted
    if severity == "info" or (previous is not None and _rank(severity) <= _rank(previous)):
        return None
    incident.alerted = severity
    return Alert(severity, previous)


def _nearest(incidents: Sequence[Incident], at_ms: int) -> Incident | None:
    near = [one for one in incidents if abs(one.opened_ms - at_ms) < HOUR_MS]
    return min(near, key=lambda one: abs(one.opened_ms - at_ms), default=None)


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


def _higher(one: Severity, other: Severity) -> Severity:
    return max(one, other, key=_rank)


def _larger(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)
