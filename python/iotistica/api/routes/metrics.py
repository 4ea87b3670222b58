"""`/api/v1/metrics/…`: what a tenant measures (reference 5.4). Prometheus asks at `/metrics`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from iotistica.api import cursors
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import Text
from iotistica.api.models import metrics as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.device_series import Device, DeviceSeries, Found
from iotistica.store.metric_catalog import MetricCatalog, Wanted

_SILENT_AFTER = timedelta(minutes=5)
_LEVELS = {"raw": "raw", "1m": "1min", "1h": "1hour", "daily": "1day"}


class Metrics:
    """Handlers of the catalog of metrics, and of metrics of devices."""

    def __init__(self, catalog: MetricCatalog, devices: DeviceSeries) -> None:
        self._catalog = catalog
        self._devices = devices

    @route("GET", "/api/v1/metrics/catalog", needs="data:read", reply=models.MetricCatalog)
    async def catalog(self, query: models.CatalogQuery, caller: Principal) -> Reply:
        """Metrics of the tenant, by name, unit and protocol."""
        after = cursors.read(query.cursor, tuple[Text, Text, Text])
        rows = await self._catalog.metrics(
            caller.tenant, search=query.search, after=after, limit=query.limit
        )
        cursor = cursors.follow(
            rows, query.limit, lambda row: (row["metric_name"], row["unit"] or "", row["protocol"])
        )
        return _page("metrics", [dict(row) for row in rows], cursor)

    @route("GET", "/api/v1/metrics/agents", needs="data:read", reply=models.MeasuringAgents)
    async def agents(self, query: models.MeasuringQuery, caller: Principal) -> Reply:
        """Agents that have sent readings."""
        after = cursors.read(query.cursor, UUID)
        rows = await self._catalog.agents(caller.tenant, after=after, limit=query.limit)
        cursor = cursors.follow(rows, query.limit, lambda row: row["agent_uuid"])
        return _page("agents", [dict(row) for row in rows], cursor)

    @route("GET", "/api/v1/metrics/latest", needs="data:read", reply=models.NewestPage)
    async def latest(self, query: models.NewestQuery, caller: Principal) -> Reply:
        """The newest reading of each series of the tenant."""
        after = cursors.read(query.cursor, tuple[UUID, Text, Text])
        wanted = Wanted(agent=query.agent_uuid, device=query.device_name, metric=query.metric_name)
        rows = await self._catalog.latest(caller.tenant, wanted, after=after, limit=query.limit)
        cursor = cursors.follow(
            rows,
            query.limit,
            lambda row: (row["agent_uuid"], row["device_name"] or "", row["metric_name"]),
        )
        return _page("readings", [dict(row) for row in rows], cursor)

    @route(
        "GET", "/api/v1/metrics/ingestion-health", needs="data:read", reply=models.IngestionHealth
    )
    async def health(self, caller: Principal) -> Reply:
        """Whether readings of the tenant arrive; of the service itself `/ready` tells."""
        row = dict(await self._catalog.health(caller.tenant, silent_after=_SILENT_AFTER))
        known = row.pop("agents_known")
        status = "healthy" if row["agents_reporting"] else "stale" if known else "idle"
        return json_reply(
            {
                "status": status,
                **row,
                "agents_silent": known - row["agents_reporting"],
                "silent_after_s": _SILENT_AFTER.total_seconds(),
            }
        )

    @route(
        "GET",
        "/api/v1/metrics/timeseries",
        needs="data:read",
        reply=models.DeviceSeries,
        errors=(404,),
    )
    async def timeseries(self, query: models.DeviceQuery, caller: Principal) -> Reply:
        """A metric of one device, the oldest step first."""
        if (query.device_uuid is None) == (query.device_name is None):
            raise BadRequest("the query needs deviceUuid or deviceName, and one of them only")
        start, end = query.between(datetime.now(UTC))
        plan = query.plan(end - start)
        device = Device(uuid=query.device_uuid, name=query.device_name, agent=query.agent_uuid)
        found = await self._devices.steps(
            caller.tenant, device, query.metric_name, plan=plan, start=start, end=end
        )
        return json_reply(
            {
                "metric": _metric(query, found),
                "metadata": {
                    **_counts(found),
                    "startTime": start,
                    "endTime": end,
                    "aggregationLevel": _LEVELS[plan.level],
                    "timeRange": query.time_range if query.start_time is None else None,
                },
                "data": [_point(row) for row in found.rows],
            }
        )

    @route("POST", "/api/v1/metrics/refresh", needs="data:read")
    async def refresh(self, query: models.RefreshQuery) -> models.Refreshed:
        """Nothing: what the reference refreshes is always up to date here."""
        message = "The catalog is kept by ingestion and is always up to date"
        return {"status": "ok", "view": query.view, "message": message}


def _page(name: str, rows: list[dict[str, Any]], cursor: str | None) -> Reply:
    return json_reply({"count": len(rows), name: rows, "cursor": cursor})


def _metric(query: models.DeviceQuery, found: Found) -> dict[str, Any]:
    newest = found.rows[-1] if found.rows else {"unit": None, "protocol": None}
    return {
        "deviceUuid": None if query.device_uuid is None else str(query.device_uuid),
        "deviceName": found.device,
        "agentUuid": found.agent,
        "metricName": query.metric_name,
        "unit": newest["unit"],
        "protocol": newest["protocol"],
    }


def _counts(found: Found) -> dict[str, Any]:
    samples = sum(row["samples"] for row in found.rows)
    good = sum(row["good"] for row in found.rows)
    return {
        "sampleCount": samples,
        "qualityPercentage": 100 * good / samples if samples else None,
    }


def _point(row: Any) -> dict[str, Any]:
    return {
        "time": row["time"],
        "value": row["value"],
        "min": row["min"],
        "max": row["max"],
        "sampleCount": row["samples"],
        "qualityPercentage": 100 * row["good"] / row["samples"],
    }
