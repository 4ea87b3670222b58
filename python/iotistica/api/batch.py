"""Topics sorted, and messages collected, until Redis takes many of them at once."""

from __future__ import annotations

import sys
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import ormsgpack

from iotistica import ledger
from iotistica._native import Accepted, parse_topic
from iotistica.api.topic_watch import Traffic
from iotistica.keys import Feed
from iotistica.mqtt import Message
from iotistica.spool import Batch as Spooled
from iotistica.spool import Kind
from iotistica.streams import DeadLetter, Streams

_MAX_ROUTES = 65_536
_MAX_JOINED = 8
"""Batches to a write: as large as a command of Redis should get."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the messages of one topic belong."""

    tenant: str
    agent: str
    kind: str
    rest: str
    traffic: Traffic = field(default_factory=Traffic)


class Routes:
    """Parsed topics by their text: fleets use the same few topics over and over."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self.get = self._routes.get

    def parse(self, topic: str) -> Route:
        """Parse and remember. Raises `InvalidTopic`."""
        parsed = parse_topic(topic)
        route = Route(
            # One object for all, or each message of a large fleet would wait for memory.
            tenant=sys.intern(parsed.tenant),
            agent=parsed.agent,
            kind=sys.intern(parsed.kind),
            rest=parsed.rest,
        )
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[topic] = route
        return route


class Batch(Protocol):
    """Messages that Redis takes or refuses together."""

    tenant: str
    opened_at: float
    feed: Feed
    """Where it goes in Redis."""

    @property
    def messages(self) -> list[Message]:
        """What is acknowledged when it is safe."""

    async def write(self, streams: Streams) -> None:
        """Hand them to Redis. Raises `StoreUnavailable`."""

    def spooled(self) -> list[Spooled]:
        """The same for the disk."""


@dataclass
class Telemetry:
    """Messages of one tenant that become one stream entry (header, payload, header, …)."""

    tenant: str
    opened_at: float
    messages: list[Message] = field(default_factory=list)
    fields: list[bytes] = field(default_factory=list)
    size: int = 0
    feed: Feed = Feed.LIVE

    def add(self, received_ms: int, topic: str, payload: bytes) -> None:
        """A message that nobody acknowledges: it was made of another one."""
        header = f"{received_ms}-{len(self.fields) // 2} {topic}".encode()
        self.fields += (header, payload)
        self.size += len(payload)

    @cached_property
    def counts(self) -> Accepted:
        """For the loss ledger, once all messages are there."""
        return Accepted(self.fields)

    async def write(self, streams: Streams) -> None:
        """One XADD."""
        await streams.accept(self.tenant, self.fields, counts=self.counts, feed=self.feed)

    def spooled(self) -> list[Spooled]:
        """One entry."""
        kind = Kind.BACKFILL if self.feed is Feed.BACKFILL else Kind.LIVE
        counts = _unpacked(self.counts)
        return [_spooled(self.tenant, kind, self.fields, len(self.messages), counts)]


@dataclass
class Joined:
    """Telemetry of one tenant and feed that Redis takes at once, each part an entry of its own."""

    tenant: str
    feed: Feed
    opened_at: float
    parts: list[Telemetry]

    @property
    def messages(self) -> list[Message]:
        """Those of all parts, in order."""
        return [message for part in self.parts for message in part.messages]

    @cached_property
    def counts(self) -> Accepted:
        """For the loss ledger."""
        return Accepted(*(part.fields for part in self.parts))

    async def write(self, streams: Streams) -> None:
        """All XADDs in one transaction."""
        entries = [part.fields for part in self.parts]
        await streams.accept(self.tenant, *entries, counts=self.counts, feed=self.feed)

    def spooled(self) -> list[Spooled]:
        """The parts."""
        return [spooled for part in self.parts for spooled in part.spooled()]


def join(waiting: deque[Batch]) -> Batch:
    """Take the first batch, with those behind it that may be written together with it."""
    batch = waiting.popleft()
    parts = [batch] if isinstance(batch, Telemetry) else []
    while parts and waiting and len(parts) < _MAX_JOINED:
        following = waiting[0]
        if not isinstance(following, Telemetry) or following.feed is not batch.feed:
            break
        parts.append(following)
        waiting.popleft()
    if len(parts) < 2:
        return batch
    return Joined(batch.tenant, batch.feed, batch.opened_at, parts)


@dataclass(slots=True)
class Letters:
    """Messages that can never pass, with the reasons."""

    tenant: str
    opened_at: float
    messages: list[Message] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    feed: Feed = Feed.LIVE

    async def write(self, streams: Streams) -> None:
        """To the dead letters of the tenant."""
        counts: Counter[str] = Counter()
        for letter in self.letters:
            counts.update(_refused(letter))
        await streams.dead_letter(self.tenant, self.letters, counts)

    def spooled(self) -> list[Spooled]:
        """Each by itself, as each is counted by itself."""
        return [
            _spooled(self.tenant, Kind.LETTERS, _encoded(letter, self.tenant), 1, _refused(letter))
            for letter in self.letters
        ]


def _spooled(
    tenant: str, kind: Kind, fields: Sequence[bytes], messages: int, counts: Mapping[str, int]
) -> Spooled:
    return Spooled(
        name=uuid.uuid4().hex,
        tenant=tenant,
        kind=kind,
        entries=[(b"", list(fields))],
        messages=messages,
        counts=counts,
    )


def _unpacked(counts: Accepted) -> dict[str, int]:
    pairs = iter(ormsgpack.unpackb(counts.pack()))
    return dict(zip(pairs, pairs, strict=True))


def _encoded(letter: DeadLetter, tenant: str) -> list[bytes]:
    return [
        part if isinstance(part, bytes) else str(part).encode() for part in letter.fields(tenant)
    ]


def _refused(letter: DeadLetter) -> dict[str, int]:
    """A message that is accepted and done in one step."""
    agent = ledger.agent_of(letter.agent)
    counters = ((ledger.ACCEPTED, ""), (ledger.SETTLED, ""), (ledger.REFUSED, letter.reason))
    return {ledger.field(agent, counter, reason): 1 for counter, reason in counters}
