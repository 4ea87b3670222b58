"""Models of Grafana's JSON data sources (docs/grafana.md): what the plugins send and read.

Grafana sends much beside what is named here, which does not matter; a payload is written by
people, so what it has beyond these fields is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypedDict
from uuid import UUID

import msgspec
from msgspec import Meta

from iotistica.api.models import Text, Time
from iotistica.api.models.queries import Downsample, Function

Many: TypeAlias = list[Text] | Text
"""Some names; or one text, in which Grafana may have put several: `(a|b)`."""
Free: TypeAlias = dict[str, Any] | Text | None


class Range(msgspec.Struct, kw_only=True):
    """The range of a dashboard."""

    start: Time = msgspec.field(name="from")
    to: Time


class AdHoc(msgspec.Struct, kw_only=True):
    """An ad hoc filter: of a tag of agents, or `agent`, `device`, `protocol`, `unit`."""

    key: Text
    operator: Annotated[str, Meta(max_length=8)]
    value: Text = ""
    values: list[Text] = []


class Payload(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a target asks for beside its metric."""

    agents: Many = []
    devices: Many = []
    aggregator: Function = "avg"
    downsample: Downsample | None = None
    rate: bool = False
    counter: bool = False
    group_by: list[Literal["device", "protocol", "unit"]] | None = None
    """What series of an agent are told apart by: `device` unless told."""
    format: Literal["time_series", "table"] = "time_series"
    annotations: Literal["incidents", "alerts", "events"] | None = None
    severity: Literal["info", "warning", "critical"] | None = None


class Target(msgspec.Struct, kw_only=True, rename="camel"):
    """One query of a panel: a metric, and how it is asked for."""

    target: Text | None = None
    ref_id: Text = ""
    type: Literal["timeserie", "timeseries", "table", ""] | None = None
    hide: bool | None = None
    payload: Free = None
    data: Free = None
    """The payload, of plugins before it had its name."""


class PanelQuery(msgspec.Struct, kw_only=True, rename="camel"):
    """The queries of a panel."""

    range: Range
    targets: Annotated[list[Target], Meta(max_length=26)]
    max_data_points: Annotated[float, Meta(ge=1, le=1_000_000)] | None = None
    interval_ms: Annotated[float, Meta(ge=0, le=1e13)] | None = None
    filters: list[AdHoc] | None = None
    adhoc_filters: list[AdHoc] | None = None


class Column(TypedDict):
    """A column of a table."""

    text: str
    type: str


class PanelPart(TypedDict, total=False):
    """A series (`target`, `tags`, `datapoints`) or a table (`type`, `columns`, `rows`)."""

    refId: str
    target: str
    tags: dict[str, str]
    datapoints: list[tuple[float | None, int]]
    """The oldest point first, the value before its time in ms."""
    type: Literal["table"]
    columns: list[Column]
    rows: list[list[Any]]


class SearchBody(msgspec.Struct, kw_only=True):
    """What somebody has typed so far."""

    target: Text | None = None


class Choice(TypedDict):
    """One of a list."""

    text: str
    value: str


class ListQuery(msgspec.Struct, kw_only=True):
    """Which of them: of these agents, with this text in it."""

    agent: list[UUID] = []
    search: Text | None = None


class VariableBody(msgspec.Struct, kw_only=True):
    """The query of a variable, as text or JSON."""

    payload: Free = None
    range: Range | None = None


class Listing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A list for a variable."""

    list: Literal["agents", "devices", "metrics", "tag"]
    agents: Many = []
    key: Text | None = None
    """Of a tag, whose values are listed."""


VariableValue = TypedDict("VariableValue", {"__text": str, "__value": str})


class MetricsBody(msgspec.Struct, kw_only=True):
    """What is chosen in the query builder so far."""

    metric: Text | None = None
    payload: Free = None


class PayloadField(TypedDict, total=False):
    """A field of a payload, for the query builder."""

    name: str
    label: str
    type: str
    options: list[dict[str, str]]


class MetricChoice(TypedDict):
    """A metric, and which payload it takes."""

    label: str
    value: str
    payloads: list[PayloadField]


class OptionsBody(msgspec.Struct, kw_only=True):
    """Asks for the options of a field of the payload."""

    name: Text
    metric: Text | None = None
    payload: Free = None


class Option(TypedDict):
    """An option of a field."""

    label: str
    value: str


class AnnotationBody(msgspec.Struct, kw_only=True):
    """Asks for the annotations of a range."""

    range: Range
    annotation: dict[str, Any] = {}


class AnnotationQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which annotations."""

    annotations: Literal["incidents", "alerts", "events"] = "incidents"
    agents: Many = []
    severity: Literal["info", "warning", "critical"] | None = None


class Annotation(TypedDict, total=False):
    """Something that happened; times in ms."""

    annotation: dict[str, Any]
    time: int
    timeEnd: int
    isRegion: bool
    title: str
    text: str
    tags: list[str]


class TagKey(TypedDict):
    """What may be filtered by."""

    type: Literal["string"]
    text: str


class TagKeysBody(msgspec.Struct, kw_only=True):
    """Nothing that matters."""


class TagValuesBody(msgspec.Struct, kw_only=True):
    """Asks for the values of one key."""

    key: Text


class TagValue(TypedDict):
    """One value."""

    text: str


class Greeting(TypedDict):
    """That it works."""

    status: Literal["ok"]
    message: str
