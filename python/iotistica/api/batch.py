"""Topics sorted, and messages collected, until Redis takes many of them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from iotistica._native import parse_topic
from iotistica.mqtt import Message
from iotistica.streams import DeadLetter, Streams

_MAX_ROUTES = 65_536


@dataclass(frozen=True, slots=True)
class Route:
    """Where the messages of one topic belong."""

    tenant: str
    agent: str
    kind: str
    rest: str
    suffix: bytes
    """The topic as it ends the header of a stream entry."""


class Routes:
    """Parsed topics by their text: fleets use the same few topics over and over."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self.get = self._routes.get

    def parse(self, topic: str) -> Route:
        """Parse and remember. Raises `InvalidTopic`."""
        parsed = parse_topic(topic)
        route = Route(parsed.tenant, parsed.agent, parsed.kind, parsed.rest, f" {topic}".encode())
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[topic] = route
        return route


class Batch(Protocol):
    """Messages that Redis takes or refuses together."""

    tenant: str
    messages: list[Message]
    opened_at: float

    async def write(self, streams: Streams) -> None:
        """Hand them to Redis. Raises `StoreUnavailable`."""


@dataclass(slots=True)
class Telemetry:
    """Messages of one tenant that become one stream entry (header, payload, header, …)."""

    tenant: str
    opened_at: float
    messages: list[Message] = field(default_factory=list)
    fields: list[bytes] = field(default_factory=list)
    size: int = 0

    async def write(self, streams: Streams) -> None:
        """One XADD."""
        await streams.add(self.tenant, self.fields)


@dataclass(slots=True)
class Letters:
    """Messages that can never pass, with the reasons."""

    tenant: str
    opened_at: float
    messages: list[Message] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    async def write(self, streams: Streams) -> None:
        """To the dead letters of the tenant."""
        await streams.dead_letter(self.tenant, self.letters)
