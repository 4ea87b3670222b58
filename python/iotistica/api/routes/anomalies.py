"""`/api/v1/anomaly/…`: anomaly events counted (reference section 5.2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from iotistica.api.models import anomalies as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.anomaly_statistics import AnomalyStatistics

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_MONTH = timedelta(days=30)


class Anomalies:
    """Handlers of the counts, for a tenant and for one agent."""

    def __init__(self, store: AnomalyStatistics) -> None:
        self._store = store

    @route("GET", "/api/v1/anomaly/summary", needs="data:read")
    async def summary(self, caller: Principal, query: models.WindowQuery) -> models.AnomalySummary:
        """Count the anomalies of the tenant; the last 24 hours by default."""
        return await self._summary(caller, None, query)

    @route("GET", "/api/v1/anomaly/hourly", needs="data:read")
    async def hourly(self, caller: Principal, query: models.WindowQuery) -> models.AnomalyBuckets:
        """Count the anomalies of the tenant by hour; the last 24 hours by default."""
        return await self._buckets(caller, None, query.span(), _HOUR_MS)

    @route("GET", "/api/v1/anomaly/daily", needs="data:read")
    async def daily(self, caller: Principal, query: models.WindowQuery) -> models.AnomalyBuckets:
        """Count the anomalies of the tenant by day (UTC); the last 30 days by default."""
        return await self._buckets(caller, None, query.span(_MONTH), _DAY_MS)

    @route("GET", "/api/v1/anomaly/top-metrics", needs="data:read")
    async def top_metrics(self, caller: Principal, query: models.TopQuery) -> models.TopMetrics:
        """List the metrics with most anomalies; the last 24 hours by default."""
        return await self._top(caller, None, query)

    @route("GET", "/api/v1/anomaly/:uuid/summary", needs="data:read")
    async def agent_summary(
        self, caller: Principal, uuid: UUID, query: models.WindowQuery
    ) -> models.AnomalySummary:
        """Count the anomalies of an agent; the last 24 hours by default."""
        return await self._summary(caller, uuid, query)

    @route("GET", "/api/v1/anomaly/:uuid/hourly", needs="data:read")
    async def agent_hourly(
        self, caller: Principal, uuid: UUID, query: models.WindowQuery
    ) -> models.AnomalyBuckets:
        """Count the anomalies of an agent by hour; the last 24 hours by default."""
        return await self._buckets(caller, uuid, query.span(), _HOUR_MS)

    @route("GET", "/api/v1/anomaly/:uuid/top-metrics", needs="data:read")
    async def agent_top_metrics(
        self, caller: Principal, uuid: UUID, query: models.TopQuery
    ) -> models.TopMetrics:
        """List the metrics of an agent with most anomalies; the last 24 hours by default."""
        return await self._top(caller, uuid, query)

    async def _summary(
        self, caller: Principal, agent: UUID | None, query: models.WindowQuery
    ) -> models.AnomalySummary:
        start, end = query.span()
        row = dict(await self._store.summary(caller.tenant, agent, start, end))
        del row["tenant"]
        last_at = _moment(row.pop("last_ms"))
        return models.AnomalySummary(**row, start=start, end=end, last_at=last_at)

    async def _buckets(
        self, caller: Principal, agent: UUID | None, span: tuple[datetime, datetime], step_ms: int
    ) -> models.AnomalyBuckets:
        rows = await self._store.buckets(caller.tenant, agent, *span, step_ms=step_ms)
        found = [_bucket(row) for row in rows]
        return models.AnomalyBuckets(len(found), found)

    async def _top(
        self, caller: Principal, agent: UUID | None, query: models.TopQuery
    ) -> models.TopMetrics:
        rows = await self._store.top_metrics(caller.tenant, agent, *query.span(), limit=query.limit)
        found = [_metric(row) for row in rows]
        return models.TopMetrics(len(found), found)


def _bucket(row: Any) -> models.AnomalyBucket:
    fields = dict(row)
    at = fields.pop("bucket_ms")
    return models.AnomalyBucket(**fields, bucket=datetime.fromtimestamp(at / 1000, UTC))


def _metric(row: Any) -> models.MetricCounts:
    fields = dict(row)
    at = fields.pop("last_ms")
    return models.MetricCounts(**fields, last_at=datetime.fromtimestamp(at / 1000, UTC))


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC)
