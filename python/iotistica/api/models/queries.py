"""Models of queries on metrics of many agents (reference section 5.4)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypedDict
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Time
from iotistica.errors import BadRequest
from iotistica.series.rates import Counter
from iotistica.store.metric_queries import Filter, Question

Function: TypeAlias = Literal["avg", "sum", "min", "max", "last", "count"]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")]
Downsample: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[1-9][0-9]{0,5}[smhdw]-(avg|sum|min|max|last|count)$",
        extra_json_schema={"examples": ["1h-avg"]},
    ),
]


class TagFilter(msgspec.Struct, kw_only=True):
    """Series whose tag fits.

    `tagk` is a tag of agents, or `agent` (its name), `device`, `protocol`, `unit`. A wildcard has
    `*` for any characters; a regular expression (of PostgreSQL) fits where it is found anywhere.
    With `group_by` there is a series for each value of the tag, which it tells.
    """

    type: Literal["exact", "wildcard", "regexp"]
    tagk: Name
    filter: Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*$", examples=["press-1"])]
    group_by: bool = False


class RateOptions(msgspec.Struct, kw_only=True):
    """What a fall of the value means.

    Of a counter that it began anew, at 0 or after `counter_max`; a rate beyond `reset_value` is
    taken for a reset as well, and given as 0.
    """

    counter: bool = False
    counter_max: Annotated[float, Meta(gt=0)] | None = None
    reset_value: Annotated[float, Meta(gt=0)] | None = None


class SubQuery(msgspec.Struct, kw_only=True):
    """Series of one metric, by agent, of those agents or those filters or both.

    `downsample` makes steps of each series, such as hours of averages; the series of an agent (one
    for each device) are then put together by `aggregator`. Without it, each time by itself where
    these are few enough, else in steps that fit the range. Percentiles are those of the single
    readings of each step.
    """

    metric: Name
    agent_uuids: Annotated[list[UUID], Meta(max_length=1000)] = []
    aggregator: Function = "avg"
    downsample: Downsample | None = None
    rate: bool = False
    rate_options: RateOptions | None = None
    filters: Annotated[list[TagFilter], Meta(max_length=10)] = []
    percentiles: Annotated[list[Annotated[int, Meta(ge=1, le=99)]], Meta(max_length=10)] = []

    @property
    def counter(self) -> Counter:
        """How the rate is reckoned."""
        given = self.rate_options or RateOptions()
        return Counter(given.counter, given.counter_max, given.reset_value)

    def question(self, place: str) -> Question:
        """What is asked of the store. Raises `BadRequest` naming the field."""
        if not self.agent_uuids and not self.filters:
            raise BadRequest(f"field {place} has neither agent_uuids nor filters; one is needed")
        if self.rate and self.percentiles:
            raise BadRequest(f"field {place} has rate and percentiles; allowed is one of them")
        length, _, function = (self.downsample or "").partition("-")
        return Question(
            metric=self.metric,
            agents=self.agent_uuids or None,
            aggregator=self.aggregator,
            step=window.span(f"{place}.downsample", length) if length else None,
            function=function or None,
            filters=[Filter(one.type, one.tagk, one.filter, one.group_by) for one in self.filters],
            percentiles=sorted(set(self.percentiles)),
        )


class QueryBody(msgspec.Struct, kw_only=True):
    """Up to twenty questions about one range of time."""

    start: Time
    queries: Annotated[list[SubQuery], Meta(min_length=1, max_length=20)]
    end: Time | None = None


class QuerySeries(TypedDict):
    """One series, the oldest point first."""

    metric: str
    agent_uuid: str
    tags: dict[str, str]
    step_s: float | None
    """Length of the steps; null where each time stands by itself."""
    dps: list[dict[str, Any]]
    """`time` and `value`; or `time` and the percentiles, such as `p50`."""


class QueryAnswer(TypedDict):
    """The series of each question."""

    query_count: int
    start: datetime
    end: datetime
    results: list[list[QuerySeries]]
