"""Which topics are used, counted where messages pass anyway; told to Redis every few seconds.

Nothing is subscribed to for it. A message costs two additions; the first on a topic in each period
costs an entry in a list, and once a minute a look at its payload.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from heapq import nlargest
from typing import Any

import orjson

from iotistica import keys, log
from iotistica._native import Limits, Undecodable, decode
from iotistica.errors import StoreUnavailable
from iotistica.instants import iso_ms
from iotistica.monitor.payload import kind
from iotistica.monitor.schema import infer
from iotistica.mqtt import Message
from iotistica.streams import Seen, Streams

_MOST_ACTIVE = 65_536
"""Topics of one period; the messages of others are not counted."""
_MOST_TOLD = 200
_AT_ONCE = 1000
_REST_PER_FLUSH, _MOST_REST_S = 99, 60.0
"""Telling takes a hundredth of the time at the most: a large fleet is told of less often."""
_LOOK_S = 60.0
_MOST_LOOKS = 64
"""Of one period, so that looking takes next to no time whatever is sent."""
_MOST_LOOK_BYTES = 32 * 1024
_LOOK_LIMITS = Limits(max_message_bytes=_MOST_LOOK_BYTES, max_inflated_bytes=256 * 1024)

_occasional = log.Occasional(log.get(__name__))


class Traffic:
    """What came on one topic since it was told."""

    __slots__ = ("bytes", "kind", "look_at_s", "looked", "messages", "qos", "retained", "schema")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.kind = ""
        self.qos = 0
        self.retained = False
        self.look_at_s = 0.0
        self.looked = False
        self.schema: dict[str, Any] | None = None


class TopicWatch:
    """The topics of one process."""

    def __init__(
        self,
        streams: Streams,
        *,
        name: str,
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._streams = streams
        self._name = name
        self._period_s = period_s
        self._clock = clock
        self._now_s = clock()
        self._active: list[tuple[str, str, Traffic]] = []
        self._looks: list[tuple[Traffic, bytes]] = []

    def count(self, tenant: str, traffic: Traffic, message: Message) -> None:
        """Count a message of a tenant that exists."""
        if traffic.messages:
            traffic.messages += 1
            traffic.bytes += len(message.payload)
        else:
            self.first(tenant, traffic, message)

    def first(self, tenant: str, traffic: Traffic, message: Message) -> None:
        """Count the first message on a topic since it was told; the caller counts the others."""
        if len(self._active) >= _MOST_ACTIVE:
            return
        payload = message.payload
        traffic.messages = 1
        traffic.bytes = len(payload)
        traffic.qos, traffic.retained = message.qos, message.retain
        self._active.append((tenant, message.topic, traffic))
        if self._now_s >= traffic.look_at_s and len(self._looks) < _MOST_LOOKS:
            traffic.look_at_s = self._now_s + _LOOK_S
            traffic.kind = kind(payload)
            traffic.looked = True
            if len(payload) <= _MOST_LOOK_BYTES:
                self._looks.append((traffic, payload))
        elif not traffic.kind:
            traffic.kind = kind(payload)

    async def repeat(self) -> None:
        """Tell what came, every few seconds, until cancelled."""
        spent_s = 0.0
        while True:
            await asyncio.sleep(max(self._period_s, min(spent_s * _REST_PER_FLUSH, _MOST_REST_S)))
            started_s = time.monotonic()
            try:
                await self.flush()
            except StoreUnavailable as error:
                _occasional.warning("topics are counted later", error=str(error))
            spent_s = time.monotonic() - started_s

    async def flush(self) -> None:
        """Tell what came. Raises `StoreUnavailable`; then it is counted next time."""
        self._now_s = self._clock()
        await self._look()
        active, self._active = self._active, []
        tenants: dict[str, list[tuple[Seen, Traffic]]] = {}
        for number, (tenant, topic, traffic) in enumerate(active, 1):
            tenants.setdefault(tenant, []).append((_taken(topic, traffic), traffic))
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        while tenants:
            tenant, counted = tenants.popitem()
            try:
                await self._tell(tenant, [seen for seen, _ in counted])
            except StoreUnavailable:
                for left, others in [(tenant, counted), *tenants.items()]:
                    self._put_back(left, others)
                raise

    async def _look(self) -> None:
        looks, self._looks = self._looks, []
        for traffic, payload in looks:
            traffic.schema = _schema(payload)
            # One at a time: messages go first.
            await asyncio.sleep(0)

    async def _tell(self, tenant: str, seen: Sequence[Seen]) -> None:
        now_ms = time.time_ns() // 1_000_000
        await self._streams.topics.add(tenant, seen, now_ms=now_ms)
        busiest = nlargest(_MOST_TOLD, seen, key=lambda one: one.messages)
        news = {
            "timestamp": iso_ms(now_ms),
            "source": self._name,
            "topics": [_news(one) for one in busiest],
        }
        channel = keys.topics_channel(tenant)
        await self._streams.channels.publish(channel, orjson.dumps(news))

    def _put_back(self, tenant: str, counted: Sequence[tuple[Seen, Traffic]]) -> None:
        for seen, traffic in counted:
            if not traffic.messages:
                self._active.append((tenant, seen.topic, traffic))
            traffic.messages += seen.messages
            traffic.bytes += seen.bytes
            traffic.looked = traffic.looked or seen.looked
            traffic.schema = traffic.schema or seen.schema


def _taken(topic: str, traffic: Traffic) -> Seen:
    seen = Seen(
        topic,
        traffic.messages,
        traffic.bytes,
        traffic.kind,
        traffic.qos,
        traffic.retained,
        traffic.looked,
        traffic.schema,
    )
    traffic.messages = traffic.bytes = 0
    traffic.looked, traffic.schema = False, None
    return seen


def _schema(payload: bytes) -> dict[str, Any] | None:
    try:
        return infer(orjson.loads(decode(payload, _LOOK_LIMITS)))
    except Undecodable:
        return None


def _news(seen: Seen) -> Mapping[str, Any]:
    return {
        "topic": seen.topic,
        "messages": seen.messages,
        "bytes": seen.bytes,
        "kind": seen.kind,
        "qos": seen.qos,
        "retained": seen.retained,
    }
