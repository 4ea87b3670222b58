"""Every channel that a client can subscribe to: who may, where its values come from, what is shown.

One that is added here is served, and is in the tests that keep tenants apart.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from iotistica import keys
from iotistica.api.live import views
from iotistica.api.live.views import Document, View
from iotistica.store.live import LiveStore
from iotistica.streams import Streams


class Scope(enum.Enum):
    """What a connection is about; each kind has channels of its own."""

    DEVICE = "device"
    """One agent: `deviceUuid=…`."""
    GLOBAL = "global"
    """The caller's tenant: `type=global`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose values a connection may see."""

    tenant: str
    agent: UUID | None = None

    @property
    def scope(self) -> Scope:
        """Which channels there are."""
        return Scope.GLOBAL if self.agent is None else Scope.DEVICE

    @property
    def device(self) -> UUID:
        """The agent of a connection that is about one."""
        if self.agent is None:
            raise ValueError("the connection is about no agent")
        return self.agent


@dataclass(frozen=True, slots=True)
class Stores:
    """Where first values come from."""

    live: LiveStore
    streams: Streams


Stored = Callable[[Stores, Subject], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One channel. With a `view` it is a value, without one its messages are events."""

    name: str
    scope: Scope
    needs: str
    """The permission, the same as of the routes that show this."""
    source: Callable[[Subject], str]
    """The channel of Redis."""
    view: Callable[[], View] | None = None
    stored: Stored | None = None
    """What a value begins with; without it there is none until something is published."""
    event: Callable[[Document], Any] | None = None
    """`data` of an event; None shows nothing."""


def _of_device(channel: Callable[[str, str], str]) -> Callable[[Subject], str]:
    return lambda subject: channel(subject.tenant, str(subject.device))


def _of_tenant(channel: Callable[[str], str]) -> Callable[[Subject], str]:
    return lambda subject: channel(subject.tenant)


async def _state(stores: Stores, subject: Subject) -> Any:
    return await stores.live.state(subject.tenant, subject.device)


async def _metrics(stores: Stores, subject: Subject) -> Any:
    limit = views.MOST_POINTS
    return await stores.live.metrics(subject.tenant, subject.device, limit=limit)


async def _is_online(stores: Stores, subject: Subject) -> Any:
    return await stores.live.is_online(subject.tenant, subject.device)


async def _figures(stores: Stores, _subject: Subject) -> Any:
    return await stores.streams.broker.current()


async def _topics(stores: Stores, subject: Subject) -> Any:
    return [one.shown() for one in await stores.streams.topics.listed(subject.tenant)]


def _named(document: Document) -> Any:
    return {"type": document.get("type"), "data": document.get("data")}


def _lifecycle(document: Document) -> Any:
    # What a remote shell says is for whoever opened it, and there is none yet.
    return None if document.get("type") == "shell-output" else _named(document)


_READ, _DATA, _BROKER = "device:read", "data:read", "mqtt:acl:manage"

_ALL = (
    Channel(
        name="system-info",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.metrics_channel),
        view=views.SystemInfo,
        stored=_state,
    ),
    Channel(
        name="history",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.metrics_channel),
        view=views.History,
        stored=_metrics,
    ),
    Channel(
        name="network-interfaces",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.metrics_channel),
        view=views.Interfaces,
        stored=_state,
    ),
    Channel(
        name="state",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.state_channel),
        view=views.State,
        stored=_state,
    ),
    Channel(
        name="presence",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.presence_channel),
        view=views.Presence,
        stored=_is_online,
    ),
    Channel(
        name="logs",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.logs_channel),
        event=lambda document: {"logs": document.get("logs")},
    ),
    Channel(
        name="agent",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.lifecycle_channel),
        event=_lifecycle,
    ),
    Channel(
        name="jobs",
        scope=Scope.DEVICE,
        needs=_READ,
        source=_of_device(keys.jobs_channel),
        event=_named,
    ),
    Channel(
        name="anomalies",
        scope=Scope.DEVICE,
        needs=_DATA,
        source=_of_device(keys.anomalies_channel),
        event=lambda document: document.get("anomaly"),
    ),
    Channel(
        name="presence",
        scope=Scope.GLOBAL,
        needs=_READ,
        source=_of_tenant(keys.tenant_presence_channel),
        view=views.Fleet,
    ),
    Channel(
        name="alerts",
        scope=Scope.GLOBAL,
        needs=_DATA,
        source=_of_tenant(keys.alerts_channel),
        event=lambda document: {name: document.get(name) for name in ("event", "alert")},
    ),
    Channel(
        name="mqtt-stats",
        scope=Scope.GLOBAL,
        needs=_BROKER,
        source=lambda _subject: keys.BROKER_CHANNEL,
        view=views.BrokerFigures,
        stored=_figures,
    ),
    Channel(
        name="mqtt-topics",
        scope=Scope.GLOBAL,
        needs=_READ,
        source=_of_tenant(keys.topics_channel),
        view=views.Topics,
        stored=_topics,
    ),
)

CHANNELS: Mapping[tuple[Scope, str], Channel] = {(one.scope, one.name): one for one in _ALL}
"""All channels by what they are about and their names."""
