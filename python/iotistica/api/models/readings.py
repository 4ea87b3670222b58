"""Models of the queries on readings (reference section 5.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from iotistica.api import cursors, window
from iotistica.api.models import Text, Time
from iotistica.series.levels import Level, Resolution
from iotistica.store.series import Question


class SeriesQuery(msgspec.Struct, kw_only=True):
    """Which readings: those of `start <= time <= end`, the newest first.

    Single readings where there are at most `limit`, or where no start is given; steps for longer
    ranges, each of the same length and at most `limit` of them. `resolution` overrides that.
    """

    metric: Annotated[list[Text], Meta(max_length=100)] = []
    protocol: Annotated[list[Text], Meta(max_length=20)] = []
    start: Time | None = None
    end: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    resolution: Resolution = "auto"
    cursor: Text | None = None

    def question(self, now: datetime) -> Question:
        """What is asked. Raises `BadRequest`."""
        start, end = window.between(self.start, self.end, now)
        return Question(
            metrics=self.metric or None,
            protocols=self.protocol or None,
            start=start,
            end=end,
            limit=self.limit,
            resolution=self.resolution,
            after=cursors.read(self.cursor, tuple[datetime, str]),
        )


class LatestQuery(msgspec.Struct, kw_only=True):
    """Which series; all where none is named."""

    metrics: Annotated[list[Text], Meta(max_length=1000)] = []


class ReadingView(TypedDict):
    """One reading, or one step: then `time` is its start and `value` the average."""

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
    min_value: NotRequired[float | None]
    max_value: NotRequired[float | None]
    first_value: NotRequired[float | None]
    last_value: NotRequired[float | None]
    stddev_value: NotRequired[float | None]
    sample_count: NotRequired[int]
    quality_ratio: NotRequired[float]


class Series(TypedDict):
    """Readings or steps, the newest first."""

    agent_uuid: str
    count: int
    resolution: Level
    step_s: float | None
    """Length of a step; null for single readings."""
    readings: list[ReadingView]
    cursor: str | None


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
