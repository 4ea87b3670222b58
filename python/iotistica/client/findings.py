"""What was measured, what happened, and what was found strange."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from iotistica.api.models import alerts as alert_models
from iotistica.api.models import anomalies as anomaly_models
from iotistica.api.models import events as event_models
from iotistica.api.models import exports as export_models
from iotistica.api.models import metrics as metric_models
from iotistica.api.models import queries as query_models
from iotistica.api.models import readings as reading_models
from iotistica.client.transport import Transport, segment

_V1 = "/api/v1"


class Readings:
    """Telemetry."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def timeseries(
        self, agent: UUID | str, query: reading_models.SeriesQuery
    ) -> reading_models.Series:
        """Readings of an agent, the newest first. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/timeseries"
        return await self._transport.call("GET", path, reading_models.Series, query=query)

    async def latest(self, agent: UUID | str, *metrics: str) -> reading_models.Latest:
        """The newest reading of each series, or of these metrics. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/latest"
        query = reading_models.LatestQuery(metrics=list(metrics))
        return await self._transport.call("GET", path, reading_models.Latest, query=query)

    async def hourly(
        self, agent: UUID | str, metric: str, window: reading_models.RangeQuery
    ) -> reading_models.Buckets:
        """Hours of a metric, the newest first, by device. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/{segment(metric)}/hourly"
        return await self._transport.call("GET", path, reading_models.Buckets, query=window)

    async def daily(
        self, agent: UUID | str, metric: str, window: reading_models.RangeQuery
    ) -> reading_models.Buckets:
        """Days of a metric, the newest first, by device. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/{segment(metric)}/daily"
        return await self._transport.call("GET", path, reading_models.Buckets, query=window)

    async def summary(self, agent: UUID | str) -> reading_models.ReadingSummary:
        """How many readings of each metric there are, and since when. Raises `NotFound`."""
        path = f"{_V1}/readings/{segment(agent)}/summary"
        return await self._transport.call("GET", path, reading_models.ReadingSummary)

    async def query(self, body: query_models.QueryBody) -> query_models.QueryAnswer:
        """Metrics of many agents, by agents and tags. Raises `BadRequest`."""
        path = f"{_V1}/readings/query"
        return await self._transport.call("POST", path, query_models.QueryAnswer, body=body)

    def export(self, query: export_models.ExportQuery) -> AsyncIterator[bytes]:
        """A file of readings, in pieces; whole only where this ends without an error."""
        return self._transport.stream(f"{_V1}/readings/export", query=query)

    async def catalog(
        self, *, search: str | None = None
    ) -> AsyncIterator[metric_models.CatalogMetric]:
        """Every metric of the tenant whose name has the text in it."""
        query = metric_models.CatalogQuery(search=search, limit=1000)
        path = f"{_V1}/metrics/catalog"
        async for page in self._transport.pages(path, metric_models.MetricCatalog, query):
            for metric in page["metrics"]:
                yield metric


class Events:
    """What happened."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: event_models.Search | None = None
    ) -> AsyncIterator[event_models.Event]:
        """Every event and change that fits, newest first, page after page."""
        asked = query or event_models.Search()
        async for page in self._transport.pages(f"{_V1}/events/search", event_models.Events, asked):
            for event in page.events:
                yield event

    async def snapshot(self, agent: UUID | str, at: str) -> event_models.Snapshot:
        """What is known of an agent at a time (ISO 8601). Raises `NotFound`."""
        path = f"{_V1}/events/device/{segment(agent)}/snapshot"
        body = event_models.Moment(timestamp=at)
        return await self._transport.call("POST", path, event_models.Snapshot, body=body)


class Alerts:
    """Alerts, and the rules that raise them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: alert_models.AlertQuery | None = None
    ) -> AsyncIterator[alert_models.AlertView]:
        """Every alert that fits, page after page."""
        asked = query or alert_models.AlertQuery()
        async for page in self._transport.pages(f"{_V1}/alerts", alert_models.AlertPage, asked):
            for alert in page.alerts:
                yield alert

    async def acknowledge(self, alert: int) -> alert_models.AlertView:
        """Say that somebody knows. Raises `NotFound`."""
        path = f"{_V1}/alerts/{alert}/acknowledge"
        return await self._transport.call("PATCH", path, alert_models.AlertView)

    async def rule(self, body: Any) -> alert_models.RuleView:
        """Make a rule (`RuleBody` of docs/alerts.md). Raises `BadRequest`."""
        path = f"{_V1}/alert-rules"
        return await self._transport.call("POST", path, alert_models.RuleView, body=body)


class Incidents:
    """Incidents of anomalies."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def all(
        self, query: anomaly_models.IncidentQuery | None = None
    ) -> AsyncIterator[anomaly_models.IncidentView]:
        """Every incident that fits, the newest first, page after page."""
        path, asked = f"{_V1}/anomaly-incidents", query or anomaly_models.IncidentQuery()
        async for page in self._transport.pages(path, anomaly_models.IncidentPage, asked):
            for incident in page.incidents:
                yield incident

    async def resolve(self, incident: int, notes: str | None = None) -> anomaly_models.IncidentView:
        """Resolve it and its alerts. Raises `NotFound`, `Conflict`."""
        path = f"{_V1}/anomaly-incidents/{incident}/resolve"
        body = anomaly_models.Resolution(resolution_notes=notes)
        return await self._transport.call("PATCH", path, anomaly_models.IncidentView, body=body)
