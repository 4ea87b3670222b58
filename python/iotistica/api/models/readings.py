"""Models of the queries on readings (reference section 5.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypedDict

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.api.window import Window


class SeriesQuery(msgspec.Struct, kw_only=True):
    """Which readings: the newest `limit` of `start <= time <= end`."""

    metric: Text | None = None
    protocol: Text | None = None
    start: Time | None = None
    end: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000

    def window(self) -> Window:
        """The part of the series that is asked for. Raises `BadRequest`."""
        return window.between(self.start, self.end, self.limit)


class LatestQuery(msgspec.Struct, kw_only=True):
    """Which series; all where none is named."""

    metrics: Annotated[list[Text], Meta(max_length=1000)] = []


class ReadingView(TypedDict):
    """One reading."""

    time: datetime
    agent_uuid: str
    metric_name: str
    value: float | None
    quality: str | None
    unit: str | None
    protocol: str
    extra: dict[str, Any]
    anomaly_score: float | None
    anomaly_threshold: float | None


class Series(TypedDict):
    """Readings, the newest first."""

    agent_uuid: str
    count: int
    readings: list[ReadingView]


class LatestView(TypedDict):
    """The newest reading of a series."""

    time: datetime
    agent_uuid: str
    metric_name: str
    value: float | None
    quality: str | None
    unit: str | None
    protocol: str
    extra: dict[str, str | None]


class Latest(TypedDict):
    """The newest reading of each series."""

    agent_uuid: str
    count: int
    readings: list[LatestView]
