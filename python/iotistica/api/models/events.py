"""Models of what happened (reference section 5.2, Events)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api import cursors, window
from iotistica.api.models import Time
from iotistica.errors import BadRequest
from iotistica.store.chronicle import Choice, Position
from iotistica.targets.difference import Difference

Word = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
Words = Annotated[list[Word], Meta(max_length=100)]
Severity = Literal["info", "warning", "critical"]
Severities = Annotated[list[Severity], Meta(max_length=3)]
Cursor = Annotated[str, Meta(max_length=1000)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Days = Annotated[int, Meta(ge=1, le=90)]
Period = Literal["hour", "day", "week", "month"]


class _Place(msgspec.Struct, array_like=True):
    time: Annotated[datetime, Meta(tz=True)]
    half: Annotated[int, Meta(ge=0, le=9)]
    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Page(msgspec.Struct, kw_only=True):
    limit: Limit = 100
    cursor: Cursor | None = None

    def position(self) -> Position | None:
        """Where the last page ended. Raises `BadRequest`."""
        found = cursors.read(self.cursor, _Place)
        return None if found is None else (found.time, found.half, found.id)


class Search(_Page, kw_only=True):
    """Which events; all that is given must fit. `offset` is the reference's, `cursor` is better."""

    deviceUuid: UUID | None = None
    eventTypes: Words = []
    aggregateTypes: Words = []
    """What they are about: agent, user, job, …"""
    dateFrom: Time | None = None
    dateTo: Time | None = None
    severity: Severities = []
    actorType: Literal["user", "service", "agent", "system"] | None = None
    actorId: Word | None = None
    correlationId: Word | None = None
    offset: Annotated[int, Meta(ge=0, le=10_000)] = 0

    def choice(self) -> Choice:
        """The same for the store. Raises `BadRequest`."""
        since, until = span(dateFrom=self.dateFrom, dateTo=self.dateTo)
        return Choice(
            agent=self.deviceUuid,
            types=self.eventTypes or None,
            kinds=self.aggregateTypes or None,
            severities=list(self.severity) or None,
            actor_type=self.actorType,
            actor=self.actorId,
            correlation=self.correlationId,
            since=since,
            until=until,
        )


class Recent(_Page, kw_only=True):
    """The newest."""

    aggregateType: Word | None = None


class OfAgent(_Page, kw_only=True):
    """The newest of an agent."""

    eventType: Word | None = None


class TimelineQuery(_Page, kw_only=True):
    """From when on, and which types. Nothing is sampled, so `includeSampled` changes nothing."""

    sinceDate: Time | None = None
    untilDate: Time | None = None
    eventTypes: Words = []
    includeSampled: bool = True


class AggregateQuery(msgspec.Struct, kw_only=True):
    """Counts of each period between two times."""

    period: Period
    dateFrom: Time
    dateTo: Time


class Back(msgspec.Struct, kw_only=True):
    """For how many days back."""

    daysBack: Days = 7


class MonthBack(msgspec.Struct, kw_only=True):
    """For how many days back."""

    daysBack: Days = 30


class Moment(msgspec.Struct, kw_only=True):
    """A time that has passed."""

    timestamp: Time


class Moments(msgspec.Struct, kw_only=True):
    """Two of them."""

    time1: Time
    time2: Time


class Event(msgspec.Struct, kw_only=True):
    """Something that happened."""

    id: str
    """`e…` of an event of an agent, `c…` of a change that the journal has."""
    timestamp: datetime
    type: str
    event_type: str
    """The same, as the reference calls it in searches."""
    source: str
    """presence, agent, events or jobs; `journal` of a change."""
    agent_uuid: str | None
    aggregate_type: str
    aggregate_id: str
    severity: Severity
    actor_type: str
    actor_id: str
    actor_name: str
    correlation_id: str | None
    """The id of the request that made a change."""
    data: Any
    """What the agent sent; `before` and `after` of a change."""


class Events(msgspec.Struct, kw_only=True):
    """Some of them."""

    success: bool = True
    count: int
    events: list[Event]
    cursor: str | None


class AgentEvents(Events, kw_only=True):
    """Some of one agent."""

    deviceUuid: UUID


class Chain(msgspec.Struct, kw_only=True):
    """Everything that one request changed, in its order."""

    success: bool = True
    correlationId: str
    count: int
    events: list[Event]


class TypeCount(msgspec.Struct, kw_only=True):
    """Events of one type."""

    source: str
    event_type: str
    count: int
    first: datetime
    last: datetime


class SpanCount(msgspec.Struct, kw_only=True):
    """Events of one type in one period."""

    period_start: datetime
    event_type: str
    count: int


class Statistics(msgspec.Struct, kw_only=True):
    """How much happened."""

    success: bool = True
    daysBack: int
    total: int
    stats: list[TypeCount]
    hours: list[SpanCount]


class Aggregation(msgspec.Struct, kw_only=True):
    """How much happened to an agent, by period."""

    success: bool = True
    deviceUuid: UUID
    period: Period
    dateFrom: datetime
    dateTo: datetime
    count: int
    aggregation: list[SpanCount]


class Outline(msgspec.Struct, kw_only=True):
    """What happened to an agent, in short."""

    total: int
    first: datetime | None
    last: datetime | None
    by_type: list[TypeCount]
    online: int
    """How often it came."""
    offline: int
    """How often it went."""


class Summary(msgspec.Struct, kw_only=True):
    """What happened to an agent, in short."""

    success: bool = True
    deviceUuid: UUID
    daysBack: int
    summary: Outline


class TargetThen(msgspec.Struct, kw_only=True):
    """The target state of a time, as operators saw it."""

    version: int
    served_version: int | None
    """The last version that the agent was served; null where it had the tenant's default."""
    etag: str
    action: str
    changed_by: str
    changed_at: datetime
    apps: dict[str, Any]
    config: dict[str, Any]


class Then(msgspec.Struct, kw_only=True):
    """What is known of an agent at a time; what it reported then is not kept."""

    timestamp: datetime
    existed: bool
    """Whether the agent was known at that time."""
    target: TargetThen | None
    target_is_known: bool
    """False where the history of the target state does not go back so far."""
    is_online: bool | None
    """Null where no event tells."""
    presence_changed_at: datetime | None


class Snapshot(Then, kw_only=True):
    """What is known of an agent at a time."""

    success: bool = True
    deviceUuid: UUID


class Comparison(msgspec.Struct, kw_only=True):
    """What is known of an agent at two times, and what came between."""

    success: bool = True
    deviceUuid: UUID
    before: Then
    after: Then
    differences: list[Difference]
    """Of the target states."""
    events: list[TypeCount]


def span(**times: str | None) -> tuple[datetime | None, datetime | None]:
    """Two times of a query by their names. Raises `BadRequest`, also where they are in no order."""
    (first, start), (last, end) = times.items()
    since = None if start is None else window.moment(first, start)
    until = None if end is None else window.moment(last, end)
    if since is not None and until is not None and since > until:
        raise BadRequest(f"parameter {first} ({start}) is after {last} ({end})")
    return since, until
