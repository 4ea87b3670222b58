"""Models of the broker monitor (docs/broker-monitor.md)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypedDict, TypeVar
from uuid import UUID

from msgspec import Meta, Struct

from iotistica.api.models import Text

T = TypeVar("T")

TopicName: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00+#]*$",
        extra_json_schema={"examples": ["i/ASNFZ4mr/a/ewx8TgsOTU-aU40NVKei8Q/endpoints/modbus"]},
    ),
]
"""A topic without wildcards, as it is on the wire."""

Minutes: TypeAlias = Annotated[int, Meta(ge=1, le=43_200)]


class Found(Struct, Generic[T]):
    """An answer in the form of the reference's broker monitor."""

    success: bool
    data: T


class BrokerVersion(TypedDict):
    """Which broker it is."""

    version: str | None
    uptimeSeconds: int | None


class BrokerClients(TypedDict):
    """Sessions of the broker."""

    connected: int | None
    disconnected: int | None
    total: int | None
    maximum: int | None


class BrokerMessages(TypedDict):
    """Counts since the broker started; `stored` is as of now."""

    received: int | None
    sent: int | None
    publishReceived: int | None
    publishSent: int | None
    publishDropped: int | None
    stored: int | None
    storedBytes: int | None


class BrokerBytes(TypedDict):
    """Bytes on the network since the broker started."""

    received: int | None
    sent: int | None


class BrokerRates(TypedDict):
    """Growth a second, over the last minute."""

    messagesReceived: float | None
    messagesSent: float | None
    publishReceived: float | None
    publishSent: float | None
    publishDropped: float | None
    bytesReceived: float | None
    bytesSent: float | None


class _BrokerFigures(TypedDict):
    clients: BrokerClients
    subscriptions: int | None
    retained: int | None
    messages: BrokerMessages
    bytes: BrokerBytes
    rates: BrokerRates


class BrokerMinute(_BrokerFigures):
    """The figures of one minute."""

    timestamp: datetime


class BrokerNow(_BrokerFigures):
    """The figures as they were collected last; null is what this broker does not tell."""

    timestamp: datetime | None
    """Null until they were collected once."""
    connected: bool
    """Whether they are still collected."""
    error: str | None
    broker: BrokerVersion
    topics: dict[str, int | float | str]
    """Everything below `$SYS`, as the broker publishes it."""


class HistoryQuery(Struct, kw_only=True):
    """Which minutes: the newest `limit` of the last `minutes`."""

    minutes: Annotated[int, Meta(ge=1, le=1440)] = 60
    limit: Annotated[int, Meta(ge=1, le=1440)] = 1440


class BrokerHistory(Struct):
    """Minutes, the oldest first."""

    count: int
    history: list[BrokerMinute]


class BrokerHistoryFound(Struct):
    """The same in the form of the reference's broker monitor."""

    success: bool
    count: int
    history: list[BrokerMinute]


class TopicQuery(Struct, kw_only=True):
    """Which topics: those that begin with `prefix`, and had a message in the last `minutes`."""

    prefix: Text = ""
    minutes: Minutes | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    cursor: str | None = None


class TopicView(TypedDict):
    """A topic that messages were seen on; counts since it was first seen."""

    topic: str
    messages: int
    bytes: int
    firstSeen: datetime
    lastSeen: datetime
    kind: str
    qos: int
    retained: bool


class TopicPage(Struct):
    """Topics by name."""

    count: int
    total: int
    """Of all pages."""
    topics: list[TopicView]
    cursor: str | None


class TopicAt(Struct, kw_only=True):
    """Which topic."""

    topic: TopicName


class TopicSchema(Struct, kw_only=True):
    """What the payloads of a topic look like."""

    topic: TopicView
    schema: dict[str, Any] | None
    """JSON Schema of a recent payload; null where none could be decoded."""


class TopicAccount(Struct, kw_only=True, rename="camel"):
    """An account of the broker, and what it may do on a topic."""

    username: str
    agent_uuid: UUID | None
    is_active: bool
    read: bool
    write: bool
    subscribe: bool
    rules: list[str]
    """The filters that allow it."""


class TopicAccounts(Struct):
    """Accounts of the tenant that may do anything on a topic."""

    topic: str
    count: int
    accounts: list[TopicAccount]


class Packed(Struct, kw_only=True):
    """A payload as text. With `agent`, its dictionary unfolds key-compacted payloads."""

    payload: Annotated[str, Meta(min_length=1, max_length=8 << 20, examples=["eyJhIjoxfQ=="])]
    encoding: Literal["auto", "base64", "hex", "text"] = "auto"
    agent: UUID | None = None
    topic: Annotated[str, Meta(max_length=1024)] | None = None


class Unpacked(Struct, kw_only=True):
    """What a payload is, layer by layer."""

    chain: list[str]
    """Encodings from the outside in: `zlib`, `msgpack` or `json`, `compact`."""
    bytes: int
    inflated_bytes: int | None
    ratio: float | None
    """Inflated size by size."""
    decoded: Any
    """The payload as JSON; null where it cannot be decoded."""
    expanded: Any
    """Decoded with the dictionary, where it is key-compacted and one is known."""
    readings: int
    """Rows that ingestion would make of it, below `endpoints`."""
    rejects: list[dict[str, Any]]
    """Why it, or readings of it, would be refused."""
    error: str | None


class MonitorQuery(Struct, kw_only=True):
    """Which topics: `timeWindow`, or the last `minutes`."""

    timeWindow: Literal["1h", "6h", "24h", "7d", "30d", "all"] | None = None
    minutes: Minutes | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class MonitorTopics(Struct, kw_only=True, rename="camel"):
    """Topics, those with the newest messages first."""

    success: bool
    count: int
    data: list[TopicView]
    time_window: str
    filtered_from: datetime | None


class TreeQuery(Struct, kw_only=True):
    """Which part of the tree: below a topic, so many levels deep."""

    under: Annotated[str, Meta(max_length=1024)] = ""
    depth: Annotated[int, Meta(ge=1, le=32)] = 16


class TreeNode(TypedDict):
    """A level of topics, with what is below it counted in."""

    name: str
    topic: str
    topics: int
    messages: int
    ownMessages: int
    bytes: int
    lastSeen: datetime | None
    children: list[TreeNode]


class MonitorStatus(Struct, kw_only=True, rename="camel"):
    """Whether figures are collected, and what is seen of the tenant's topics."""

    connected: bool
    error: str | None
    timestamp: datetime | None
    topic_count: int
    message_count: int


class ActivityQuery(Struct, kw_only=True):
    """How far back."""

    window: Literal[5, 15, 30, 60] = 15


class MonitorActivity(Struct, kw_only=True, rename="camel"):
    """Topics that had messages within the window, the newest first; counts are totals."""

    success: bool
    window_minutes: int
    count: int
    data: list[TopicView]


class Published(TypedDict):
    """Messages a second: to clients, and from them."""

    published: float | None
    received: float | None


class Through(TypedDict):
    """KB a second: from clients, and to them."""

    inbound: float | None
    outbound: float | None


class PublishedNow(TypedDict):
    """Over the last minute."""

    current: Published


class ThroughNow(TypedDict):
    """Over the last minute."""

    current: Through


class Totals(TypedDict):
    """Messages since the broker started."""

    sent: int | None
    received: int | None


class MonitorMetrics(Struct, kw_only=True, rename="camel"):
    """Figures of the broker by the names of the reference's monitor."""

    message_rate: PublishedNow
    throughput: ThroughNow
    clients: int | None
    subscriptions: int | None
    retained_messages: int | None
    total_messages: Totals
    timestamp: datetime | None


class MonitorStats(Struct, kw_only=True, rename="camel"):
    """The same, with what is seen of the tenant's topics."""

    connected: bool
    topic_count: int
    message_count: int
    kinds: dict[str, int]
    """Topics by what their payloads are."""
    message_rate: Published
    throughput: Through
    clients: int | None
    subscriptions: int | None
    retained_messages: int | None
    total_messages_sent: int | None
    total_messages_received: int | None
    broker: BrokerVersion


class MonitorDashboard(Struct, kw_only=True, rename="camel"):
    """Everything on one page; at most 100 topics, those with the most messages."""

    status: MonitorStatus
    metrics: MonitorMetrics
    topics: list[TopicView]
    tree: TreeNode
    """Three levels of it."""


class TreeFound(Found[TreeNode]):
    """The tree of topics."""


class StatusFound(Found[MonitorStatus]):
    """Whether the monitor works."""


class MetricsFound(Found[MonitorMetrics]):
    """Figures of the broker."""


class StatsFound(Found[MonitorStats]):
    """Figures of the broker and of the tenant's topics."""


class SystemFound(Found[BrokerNow]):
    """Everything that the broker tells about itself."""


class DashboardFound(Found[MonitorDashboard]):
    """Everything on one page."""
