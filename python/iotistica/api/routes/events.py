"""`/api/v1/events…`: what happened to agents and what operators changed, as one (docs/rest.md)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from iotistica.api import cursors, window
from iotistica.api.models import events as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.chronicle import BEGINNING, Choice, Chronicle
from iotistica.store.pool import Row
from iotistica.store.targets import TargetStore
from iotistica.targets.difference import differences
from iotistica.targets.state import EMPTY, Content

_OF = "/api/v1/events/device/:uuid"
_NEEDS = "settings:read"
_MOST_OF_A_REQUEST = 1000
_LONGEST = {"hour": timedelta(days=31), "day": timedelta(days=732)}
"""So that no answer has too many periods."""


class Events:
    """Handlers of events. They show changes of settings, too, hence their permission."""

    def __init__(self, chronicle: Chronicle, targets: TargetStore) -> None:
        self._chronicle = chronicle
        self._targets = targets

    @route("GET", "/api/v1/events/search", needs=_NEEDS, errors=(404,))
    async def search(self, caller: Principal, query: models.Search) -> models.Events:
        """Events and changes that fit, newest first."""
        rows = await self._chronicle.newest(
            caller.tenant,
            query.choice(),
            below=query.position(),
            limit=query.limit + query.offset,
        )
        return models.Events(**_page(rows[query.offset :], query.limit))

    @route("GET", "/api/v1/events/recent", needs=_NEEDS)
    async def recent(self, caller: Principal, query: models.Recent) -> models.Events:
        """The newest events and changes."""
        choice = Choice(kinds=[query.aggregateType] if query.aggregateType else None)
        rows = await self._chronicle.newest(
            caller.tenant, choice, below=query.position(), limit=query.limit
        )
        return models.Events(**_page(rows, query.limit))

    @route("GET", "/api/v1/events/stats", needs=_NEEDS)
    async def statistics(self, caller: Principal, query: models.Back) -> models.Statistics:
        """How many there were of each type, and in each hour (UTC)."""
        since, until = _back(query.daysBack)
        tenant = caller.tenant
        types = await self._chronicle.by_type(tenant, None, since=since, until=until)
        hours = await self._chronicle.by_span(tenant, None, "hour", since=since, until=until)
        return models.Statistics(
            daysBack=query.daysBack,
            total=sum(row["count"] for row in types),
            stats=_types(types),
            hours=_spans(hours),
        )

    @route("GET", "/api/v1/events/chain/:correlationId", needs=_NEEDS)
    async def chain(self, caller: Principal, correlationId: models.Word) -> models.Chain:
        """Everything that one request changed: its id is in the answer's `X-Request-Id`."""
        choice = Choice(correlation=correlationId)
        rows = await self._chronicle.newest(
            caller.tenant, choice, below=None, limit=_MOST_OF_A_REQUEST
        )
        events = [_event(row) for row in reversed(rows)]
        return models.Chain(correlationId=correlationId, count=len(events), events=events)

    @route("GET", _OF, needs=_NEEDS)
    async def device(
        self, caller: Principal, uuid: UUID, query: models.OfAgent
    ) -> models.AgentEvents:
        """What happened to an agent, newest first."""
        choice = Choice(agent=uuid, types=[query.eventType] if query.eventType else None)
        rows = await self._chronicle.newest(
            caller.tenant, choice, below=query.position(), limit=query.limit
        )
        return models.AgentEvents(deviceUuid=uuid, **_page(rows, query.limit))

    @route("GET", f"{_OF}/timeline", needs=_NEEDS)
    async def timeline(
        self, caller: Principal, uuid: UUID, query: models.TimelineQuery
    ) -> models.AgentEvents:
        """What happened to an agent, in its order: a replay of its events."""
        since, until = models.span(sinceDate=query.sinceDate, untilDate=query.untilDate)
        choice = Choice(agent=uuid, types=query.eventTypes or None, since=since, until=until)
        rows = await self._chronicle.oldest(
            caller.tenant, choice, above=query.position(), limit=query.limit
        )
        return models.AgentEvents(deviceUuid=uuid, **_page(rows, query.limit))

    @route("GET", f"{_OF}/aggregate", needs=_NEEDS)
    async def aggregate(
        self, caller: Principal, uuid: UUID, query: models.AggregateQuery
    ) -> models.Aggregation:
        """How much happened to an agent in each period (UTC)."""
        since, until = models.span(dateFrom=query.dateFrom, dateTo=query.dateTo)
        since, until = since or BEGINNING, until or datetime.now(UTC)
        longest = _LONGEST.get(query.period)
        if longest is not None and until - since > longest:
            raise BadRequest(
                f"parameter dateFrom is {longest.days} days before dateTo at most "
                f"where period is {query.period}"
            )
        rows = await self._chronicle.by_span(
            caller.tenant, uuid, query.period, since=since, until=until
        )
        return models.Aggregation(
            deviceUuid=uuid,
            period=query.period,
            dateFrom=since,
            dateTo=until,
            count=len(rows),
            aggregation=_spans(rows),
        )

    @route("GET", f"{_OF}/summary", needs=_NEEDS)
    async def summary(
        self, caller: Principal, uuid: UUID, query: models.MonthBack
    ) -> models.Summary:
        """What happened to an agent, in short."""
        since, until = _back(query.daysBack)
        rows = await self._chronicle.by_type(caller.tenant, uuid, since=since, until=until)
        counts = {row["event_type"]: row["count"] for row in rows}
        outline = models.Outline(
            total=sum(counts.values()),
            first=min((row["first"] for row in rows), default=None),
            last=max((row["last"] for row in rows), default=None),
            by_type=_types(rows),
            online=counts.get("presence.online", 0),
            offline=counts.get("presence.offline", 0),
        )
        return models.Summary(deviceUuid=uuid, daysBack=query.daysBack, summary=outline)

    @route("POST", f"{_OF}/snapshot", needs=_NEEDS)
    async def snapshot(self, caller: Principal, uuid: UUID, body: models.Moment) -> models.Snapshot:
        """What is known of an agent at a time: target state and presence."""
        at = window.moment("timestamp", body.timestamp)
        then, _ = await self._then(caller.tenant, uuid, at)
        return models.Snapshot(deviceUuid=uuid, **then)

    @route("POST", f"{_OF}/compare", needs=_NEEDS)
    async def compare(
        self, caller: Principal, uuid: UUID, body: models.Moments
    ) -> models.Comparison:
        """What is known of an agent at two times, and what came between."""
        first, second = (window.moment(name, getattr(body, name)) for name in ("time1", "time2"))
        if first > second:
            raise BadRequest(f"field time1 ({body.time1}) is after time2 ({body.time2})")
        before, old = await self._then(caller.tenant, uuid, first)
        after, new = await self._then(caller.tenant, uuid, second)
        rows = await self._chronicle.by_type(caller.tenant, uuid, since=first, until=second)
        return models.Comparison(
            deviceUuid=uuid,
            before=models.Then(**before),
            after=models.Then(**after),
            differences=list(differences(_document(old), _document(new))),
            events=_types(rows),
        )

    async def _then(self, tenant: str, uuid: UUID, at: datetime) -> tuple[dict[str, Any], Content]:
        row, content = await self._targets.at(tenant, uuid, at)
        presence = await self._chronicle.presence(tenant, uuid, at)
        target = None
        if content is not None:
            names = ("version", "served_version", "etag", "action", "changed_by", "changed_at")
            told = {name: row[name] for name in names}
            target = models.TargetThen(**told, apps=dict(content.apps), config=dict(content.config))
        then = {
            "timestamp": at,
            "existed": row["since"] <= at,
            "target": target,
            "target_is_known": content is not None or row["is_whole"],
            "is_online": None if presence is None else presence["type"] == "online",
            "presence_changed_at": None if presence is None else presence["time"],
        }
        return then, content or EMPTY


def _page(rows: Sequence[Row], limit: int) -> dict[str, Any]:
    events = [_event(row) for row in rows]
    cursor = cursors.follow(rows, limit, lambda row: (row["time"], row["half"], row["id"]))
    return {"count": len(events), "events": events, "cursor": cursor}


def _event(row: Row) -> models.Event:
    agent = row["agent_uuid"]
    return models.Event(
        id=f"{'e' if row['half'] == 1 else 'c'}{row['id']}",
        timestamp=row["time"],
        type=row["event_type"],
        event_type=row["event_type"],
        source=row["source"],
        agent_uuid=None if agent is None else str(agent),
        aggregate_type=row["aggregate_type"],
        aggregate_id=row["aggregate_id"],
        severity=row["severity"],
        actor_type=row["actor_type"],
        actor_id=row["actor_id"],
        actor_name=row["actor_name"],
        correlation_id=row["correlation_id"] or None,
        data=orjson.loads(row["data"]),
    )


def _types(rows: Sequence[Row]) -> list[models.TypeCount]:
    return [
        models.TypeCount(
            source=row["key"],
            event_type=row["event_type"],
            count=row["count"],
            first=row["first"],
            last=row["last"],
        )
        for row in rows
    ]


def _spans(rows: Sequence[Row]) -> list[models.SpanCount]:
    return [
        models.SpanCount(period_start=row["key"], event_type=row["event_type"], count=row["count"])
        for row in rows
    ]


def _back(days: int) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(days=days), now


def _document(content: Content) -> dict[str, object]:
    return {"apps": content.apps, "config": content.config}
