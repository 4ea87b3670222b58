"""Models of what agents report and what is read of it (reference sections 5.1 and 5.2)."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

from iotistica.api import window
from iotistica.api.models import Text, Time
from iotistica.errors import BadRequest
from iotistica.store.logs import Asked

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Word = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00]*$")]
Names = Annotated[list[Text], Meta(max_length=100)]
PERIODS = {"30min": 1800, "6h": 21_600, "12h": 43_200, "24h": 86_400}
"""Seconds of each period that may be asked for."""


class MetricsQuery(msgspec.Struct, kw_only=True):
    """The newest `limit` moments, or a period in at most 60 steps."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    period: Literal["30min", "6h", "12h", "24h"] | None = None


class LogQuery(msgspec.Struct, kw_only=True):
    """Which lines. `service` and `container` are the same; `text` stands anywhere, in any case."""

    service: Names = []
    container: Names = []
    level: Names = []
    text: Annotated[str, Meta(max_length=1000, pattern=r"^[^\x00]*$")] | None = None
    start: Time | None = msgspec.field(default=None, name="from")
    end: Time | None = msgspec.field(default=None, name="to")
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    offset: Annotated[int, Meta(ge=0, le=100_000)] = 0
    cursor: Annotated[str, Meta(max_length=128)] | None = None

    def asked(self) -> Asked:
        """The same for the store. Raises `BadRequest`."""
        start = window.moment("from", self.start) if self.start else None
        end = window.moment("to", self.end) if self.end else None
        if start is not None and end is not None and start > end:
            raise BadRequest(f"parameter from ({self.start}) is after to ({self.end})")
        return Asked(
            start=start,
            end=end,
            services=[*self.service, *self.container] or None,
            levels=[level.lower() for level in self.level] or None,
            text=self.text,
            before=_position(self.cursor) if self.cursor else None,
            limit=self.limit,
            offset=self.offset,
        )


def cursor_of(time: datetime, digest: int) -> str:
    """Where the lines after this one go on."""
    text = f"{(time - _EPOCH) // _MICROSECOND}.{digest}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, int]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        microseconds, _, digest = text.partition(".")
        number = int(digest)
        if not -(2**63) <= number < 2**63:
            raise ValueError("no digest")
        return _EPOCH + int(microseconds) * _MICROSECOND, number
    except (ValueError, OverflowError, binascii.Error):
        raise BadRequest(f"parameter cursor is {cursor[:64]!r}, which none of ours is") from None


class DroppedSummaries(msgspec.Struct, kw_only=True, rename="camel"):
    """What an agent dropped of its logs before it could send it."""

    summaries: Annotated[list[dict[str, Any]], Meta(max_length=10_000)]
    reported_at: Time | None = None

    def moment(self) -> datetime:
        """When it was reported. Raises `BadRequest`."""
        if self.reported_at is None:
            return datetime.now(UTC)
        return window.moment("reportedAt", self.reported_at)


class Received(msgspec.Struct, kw_only=True):
    """That summaries are kept."""

    status: str
    received: int
    message: str


class LogBatch(TypedDict, total=False):
    """What became of a batch of logs: queued now, or known from before."""

    batchId: str
    accepted: bool
    queued: bool
    duplicate: bool


class Ok(TypedDict):
    """That a report is kept."""

    status: str


class MetricsView(TypedDict):
    """System metrics at one moment."""

    recorded_at: datetime
    cpu_usage: float | None
    cpu_temp: float | None
    memory_usage: float | None
    memory_total: float | None
    storage_usage: float | None
    storage_total: float | None


class MetricsPage(TypedDict):
    """System metrics, the newest first."""

    count: int
    metrics: list[MetricsView]


class LogLine(TypedDict):
    """One line of a container's log."""

    agent_uuid: str
    timestamp: datetime
    service_name: str
    level: str
    message: str
    is_stderr: bool
    is_system: bool
    meta: dict[str, Any] | None


class LogPage(TypedDict):
    """Lines, the newest first; `cursor` is null at the end."""

    count: int
    logs: list[LogLine]
    cursor: str | None


class LogServices(TypedDict):
    """Services that have logs."""

    count: int
    services: list[str]


class Interfaces(TypedDict):
    """Network interfaces as the agent reported them last."""

    count: int
    interfaces: list[Any]
    reported_at: datetime | None


class ReportedDevices(TypedDict):
    """Devices behind an agent, as it reported them last."""

    count: int
    devices: list[Any]
    reported_at: datetime | None


class HealthQuery(msgspec.Struct, kw_only=True):
    """For how many hours back."""

    hours: Annotated[int, Meta(ge=1, le=8784)] = 24


class HealthChange(TypedDict):
    """What the agent said of an endpoint when it said something new."""

    protocol_type: str
    device_name: str
    status: str | None
    connected: bool | None
    last_poll: str | None
    error_count: float | None
    last_error: str | None
    timestamp: datetime


class HealthHistory(TypedDict):
    """Changes of an endpoint's health, the newest first."""

    agent_uuid: str
    protocol_type: str
    device_name: str
    hours: int
    count: int
    history: list[HealthChange]


class DeviceHealth(TypedDict):
    """Health of an agent's endpoints by their names, as it reported it last."""

    count: int
    devices: dict[str, Any]
    reported_at: datetime | None
