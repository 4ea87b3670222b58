"""Models of the queries on readings (reference section 5.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta

from iotistica.api import cursors, window
from iotistica.api.models import Span, Text, Time
from iotistica.errors import BadRequest
from iotistica.series.fill import Fill
from iotistica.series.levels import Level, Resolution
from iotistica.store.series import Question

Aggregate = Literal["avg", "min", "max", "first", "last", "count", "sum", "stddev"]
"""What the value of a step is."""


class SeriesQuery(msgspec.Struct, kw_only=True):
    """Which readings: those of `start <= time <= end`, the newest first.

    Single readings where there are at most `limit`, or where no start is given; steps for longer
    ranges, each of the same length and at most `limit` of them. `resolution`, `step` (such as
    `15m`) or `points` (as many steps as that) overrides that. `aggregate` says what the value of a
    step is, and `fill` what stands where a step has no reading: with either there are always steps.
    `downsample=lttb` chooses `limit` points for a plot that look most like all of them.
    """

    metric: Annotated[list[Text], Meta(max_length=100)] = []
    protocol: Annotated[list[Text], Meta(max_length=20)] = []
    start: Time | None = None
    end: Time | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    resolution: Resolution = "auto"
    step: Span | None = None
    points: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    aggregate: Aggregate | None = None
    fill: Fill = "none"
    downsample: Literal["lttb"] | None = None
    cursor: Text | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the answer has to be seen whole before anything is given."""
        return self.downsample is not None or self.fill != "none"

    def question(self, now: datetime, *, plot_readings: int) -> Question:
        """What is asked, of up to so many points to thin out. Raises `BadRequest`."""
        self._check()
        start, end = window.between(self.start, self.end, now)
        return Question(
            metrics=self.metric or None,
            protocols=self.protocol or None,
            start=start,
            end=end,
            limit=self.points or self.limit
            if self.downsample is None
            else max(plot_readings, self.limit),
            resolution=self.resolution,
            step=None if self.step is None else window.span("step", self.step),
            points=self.points,
            only_steps=self.aggregate is not None or self.fill != "none",
            after=cursors.read(self.cursor, tuple[datetime, str]),
        )

    def _check(self) -> None:
        """What does not go together. Raises `BadRequest`."""
        if self.step is not None and self.resolution != "auto":
            raise BadRequest("parameter step is given with resolution; allowed is one of them")
        if self.points is not None:
            self._check_points()
        if self.resolution == "raw" and (self.aggregate or self.fill != "none"):
            name = "aggregate" if self.aggregate else "fill"
            raise BadRequest(f"parameter {name} is for steps; resolution=raw has single readings")
        if self.fill != "none" and self.downsample is not None:
            raise BadRequest("parameter fill is given with downsample; allowed is one of them")
        if self.cursor is not None and self.is_whole:
            name = "fill" if self.downsample is None else "downsample"
            raise BadRequest(f"parameter {name} is given with cursor: its answers have one page")
        needing = ("step", "points", "aggregate", "downsample") if self.resolution == "auto" else ()
        for name in ("fill", *needing):
            if getattr(self, name) not in (None, "none") and self.start is None:
                raise BadRequest(f"parameter {name} needs start, of which the steps depend")

    def _check_points(self) -> None:
        for name in ("step", "downsample", "cursor"):
            if getattr(self, name) is not None:
                raise BadRequest(f"parameter points is given with {name}; allowed is one of them")
        if self.resolution != "auto":
            raise BadRequest("parameter points is given with resolution; allowed is one of them")


class RangeQuery(msgspec.Struct, kw_only=True):
    """The buckets that hold any time of `start` to `end`."""

    start: Time
    end: Time

    def between(self, now: datetime) -> tuple[datetime, datetime]:
        """The range. Raises `BadRequest`."""
        start, end = window.between(self.start, self.end, now)
        assert start is not None
        assert end is not None
        return start, end


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
    quality_ratio: NotRequired[float | None]
    """Null for a step that was filled: then `sample_count` is 0."""


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


class Bucket(TypedDict):
    """What a device behind the agent gave in an hour or a day."""

    bucket: datetime
    device_name: str | None
    avg_value: float | None
    min_value: float | None
    max_value: float | None
    stddev_value: float | None
    first_value: float | None
    last_value: float | None
    sample_count: int


class Buckets(TypedDict):
    """Buckets of a metric, the newest first; of one time, by device."""

    agent_uuid: str
    metric_name: str
    interval: Literal["1 hour", "1 day"]
    count: int
    aggregates: list[Bucket]


class MetricSummary(TypedDict):
    """All that is kept of a metric."""

    metric_name: str
    protocol: str
    unit: str | None
    total_readings: int
    last_reading_time: datetime
    """Of readings that have a value; where none has, the start of the day."""
    first_reading_time: datetime


class ReadingSummary(TypedDict):
    """Metrics of an agent, by name, protocol and unit."""

    agent_uuid: str
    total_metrics: int
    metrics: list[MetricSummary]
