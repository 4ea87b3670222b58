"""Models of what a tenant measures (reference section 5.4)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, TypeAlias, TypedDict
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.errors import BadRequest
from iotistica.series.levels import Plan

Aggregation: TypeAlias = Literal["auto", "1min", "1hour", "1day"]
TimeRange: TypeAlias = Literal["1m", "1h", "6h", "12h", "24h", "7d", "30d"]
Limit: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_PLANS: dict[Aggregation, Plan] = {
    "1min": Plan("1m", _MINUTE),
    "1hour": Plan("1h", _HOUR),
    "1day": Plan("daily", _DAY),
}
# Until which length of the range, as the reference has it.
_AUTOMATIC = (
    (15 * _MINUTE, Plan("raw", timedelta(seconds=5))),
    (6 * _HOUR, _PLANS["1min"]),
    (7 * _DAY, _PLANS["1hour"]),
)


class CatalogQuery(msgspec.Struct, kw_only=True):
    """Metrics whose name has this text in it; all where none is given."""

    search: Text | None = None
    limit: Limit = 100
    cursor: Text | None = None


class CatalogMetric(TypedDict):
    """A metric of a unit by a protocol."""

    metric_name: str
    unit: str | None
    protocol: str
    agents: int
    series: int
    """Agents and their devices."""
    last_seen: datetime


class MetricCatalog(TypedDict):
    """Metrics by name."""

    count: int
    metrics: list[CatalogMetric]
    cursor: str | None


class MeasuringQuery(msgspec.Struct, kw_only=True):
    """A page."""

    limit: Limit = 100
    cursor: Text | None = None


class MeasuringAgent(TypedDict):
    """An agent that has sent readings."""

    agent_uuid: str
    agent_name: str
    metrics: int
    devices: int
    series: int
    last_seen: datetime


class MeasuringAgents(TypedDict):
    """Agents that have sent readings."""

    count: int
    agents: list[MeasuringAgent]
    cursor: str | None


class NewestQuery(msgspec.Struct, kw_only=True, rename="camel"):
    """Which series; all where nothing is said."""

    agent_uuid: UUID | None = None
    device_name: Text | None = None
    metric_name: Text | None = None
    limit: Limit = 100
    cursor: Text | None = None


class Newest(TypedDict):
    """The newest reading of a series."""

    agent_uuid: str
    agent_name: str
    device_name: str | None
    metric_name: str
    value: float | None
    quality: str | None
    unit: str | None
    protocol: str
    time: datetime


class NewestPage(TypedDict):
    """The newest reading of each series, by agent, device and metric."""

    count: int
    readings: list[Newest]
    cursor: str | None


class IngestionHealth(TypedDict):
    """Whether readings arrive."""

    status: Literal["healthy", "stale", "idle"]
    """`stale` where none was stored for `silent_after_s`, `idle` where there never was one."""
    agents_total: int
    agents_reporting: int
    """Of which a reading was stored within `silent_after_s`."""
    agents_silent: int
    """Which have sent readings before."""
    series_total: int
    last_reading_time: datetime | None
    """As agents say."""
    last_stored_at: datetime | None
    silent_after_s: float


class RefreshQuery(msgspec.Struct, kw_only=True):
    """What to refresh."""

    view: Text = "all"


class Refreshed(TypedDict):
    """That nothing had to be done."""

    status: Literal["ok"]
    view: str
    message: str


class DeviceQuery(msgspec.Struct, kw_only=True, rename="camel"):
    """A metric of a device: an endpoint by its uuid, an agent by its own, or a device by name.

    Of the last `timeRange`, unless `startTime` is given. The reference's choice of steps: 5 s up to
    15 minutes, minutes up to 6 hours, hours up to 7 days, days beyond.
    """

    metric_name: Annotated[str, Meta(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
    device_uuid: UUID | None = None
    device_name: Text | None = None
    agent_uuid: UUID | None = None
    time_range: TimeRange = "1h"
    aggregation: Aggregation = "auto"
    start_time: Time | None = None
    end_time: Time | None = None

    def between(self, now: datetime) -> tuple[datetime, datetime]:
        """The range. Raises `BadRequest`."""
        end = now if self.end_time is None else window.moment("endTime", self.end_time, now)
        if self.start_time is None:
            return end - window.span("timeRange", self.time_range), end
        start = window.moment("startTime", self.start_time, now)
        if start > end:
            raise BadRequest(
                f"parameter startTime ({start.isoformat()}) is after endTime ({end.isoformat()})"
            )
        return start, end

    def plan(self, span: timedelta) -> Plan:
        """In which steps."""
        if self.aggregation != "auto":
            return _PLANS[self.aggregation]
        return next((plan for most, plan in _AUTOMATIC if span <= most), _PLANS["1day"])


class DevicePoint(TypedDict):
    """One step."""

    time: datetime
    value: float | None
    """The average."""
    min: float | None
    max: float | None
    sampleCount: int
    qualityPercentage: float


class DeviceMetric(TypedDict):
    """What is shown."""

    deviceUuid: str | None
    deviceName: str | None
    agentUuid: str
    metricName: str
    unit: str | None
    protocol: str | None


class DeviceMetadata(TypedDict):
    """Of how much, and how."""

    sampleCount: int
    startTime: datetime
    endTime: datetime
    aggregationLevel: Literal["raw", "1min", "1hour", "1day"]
    timeRange: str | None
    """Null where `startTime` was given."""
    qualityPercentage: float | None
    """Share of the readings whose quality is good."""


class DeviceSeries(TypedDict):
    """A metric of a device, the oldest step first."""

    metric: DeviceMetric
    metadata: DeviceMetadata
    data: list[DevicePoint]
