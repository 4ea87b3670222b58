"""Which topics each tenant's agents publish on, as far as the platform sees them: bounded.

A sorted set holds the topics by their last message, a hash beside it what is known of each:
`n:{topic}` messages, `b:{topic}` bytes, `f:{topic}` first seen, `k:{topic}` facts as JSON,
`s:{topic}` schema as JSON. Those that were seen least recently go when there are too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
from redis.asyncio import Redis

from iotistica import keys
from iotistica.instants import iso_ms
from iotistica.streams.client import Argument, execute, transact, unavailable

MOST_TOPICS = 10_000
KEPT_S = 7 * 86_400
"""A topic that is silent for so long is forgotten."""

_AT_ONCE = 200
"""So that no command keeps Redis for longer than a few milliseconds."""

_ADD = """
local now, most, kept_s = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, #ARGV, 6 do
    local topic, messages, bytes, looked, facts, schema =
        ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    local added = redis.call('ZADD', KEYS[1], 'GT', now, topic)
    redis.call('HINCRBY', KEYS[2], 'n:' .. topic, messages)
    redis.call('HINCRBY', KEYS[2], 'b:' .. topic, bytes)
    if added == 1 then redis.call('HSET', KEYS[2], 'f:' .. topic, now) end
    if added == 1 or looked == '1' then redis.call('HSET', KEYS[2], 'k:' .. topic, facts) end
    if schema ~= '' then redis.call('HSET', KEYS[2], 's:' .. topic, schema) end
end
local function forget(topics)
    for _, topic in ipairs(topics) do
        redis.call('ZREM', KEYS[1], topic)
        redis.call('HDEL', KEYS[2],
            'n:' .. topic, 'b:' .. topic, 'f:' .. topic, 'k:' .. topic, 's:' .. topic)
    end
end
forget(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - kept_s * 1000, 'LIMIT', 0, 500))
local beyond = redis.call('ZCARD', KEYS[1]) - most
if beyond > 0 then forget(redis.call('ZRANGE', KEYS[1], 0, beyond - 1)) end
redis.call('EXPIRE', KEYS[1], kept_s)
redis.call('EXPIRE', KEYS[2], kept_s)
"""


class Seen(NamedTuple):
    """What came on one topic since the last time that this was told."""

    topic: str
    messages: int
    bytes: int
    kind: str
    """Of its payload: `json`, `msgpack`, `deflate+json`, …"""
    qos: int
    retained: bool
    looked: bool = True
    """Whether a payload was looked at, so that `kind` may be another than before."""
    schema: dict[str, Any] | None = None
    """Of that payload, if it could be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTopic:
    """What is known of one topic."""

    topic: str
    messages: int
    bytes: int
    first_seen_ms: int
    last_seen_ms: int
    kind: str
    qos: int
    retained: bool

    def shown(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "topic": self.topic,
            "messages": self.messages,
            "bytes": self.bytes,
            "firstSeen": iso_ms(self.first_seen_ms),
            "lastSeen": iso_ms(self.last_seen_ms),
            "kind": self.kind,
            "qos": self.qos,
            "retained": self.retained,
        }


class Topics:
    """Topics of all tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis, *, most: int = MOST_TOPICS) -> None:
        self._redis = redis
        self._most = most

    async def add(self, tenant: str, seen: Sequence[Seen], *, now_ms: int) -> None:
        """Count what came; where there are too many topics, forget those that are silent."""
        command = ("EVAL", _ADD, 2, keys.topics_seen(tenant), keys.topic_figures(tenant))
        # More than may be kept would only push each other out.
        for first in range(0, min(len(seen), self._most), _AT_ONCE):
            arguments: list[Argument] = [now_ms, self._most, KEPT_S]
            for one in seen[first : min(first + _AT_ONCE, self._most)]:
                facts = _facts(one.kind, one.qos, one.retained)
                schema = orjson.dumps(one.schema) if one.schema is not None else b""
                looked = b"1" if one.looked else b""
                arguments += (one.topic, one.messages, one.bytes, looked, facts, schema)
            with unavailable("count topics"):
                await transact(self._redis, (*command, *arguments))

    async def listed(self, tenant: str) -> list[KnownTopic]:
        """Every topic that is known, those with the newest messages first."""
        with unavailable("list topics"):
            found = await execute(
                self._redis, "ZREVRANGE", keys.topics_seen(tenant), 0, -1, "WITHSCORES"
            )
        pairs = list(zip(found[::2], found[1::2], strict=True))
        topics: list[KnownTopic] = []
        for first in range(0, len(pairs), _AT_ONCE):
            topics += await self._figures(tenant, pairs[first : first + _AT_ONCE])
        return topics

    async def get(self, tenant: str, topic: str) -> tuple[KnownTopic, dict[str, Any] | None] | None:
        """One topic and the schema of its payload, if one was looked at."""
        with unavailable("read a topic"):
            score = await execute(self._redis, "ZSCORE", keys.topics_seen(tenant), topic)
            schema = await execute(self._redis, "HGET", keys.topic_figures(tenant), f"s:{topic}")
        if score is None:
            return None
        known = await self._figures(tenant, [(topic.encode(), score)])
        return (known[0], orjson.loads(schema) if schema else None) if known else None

    async def _figures(self, tenant: str, pairs: Sequence[tuple[bytes, bytes]]) -> list[KnownTopic]:
        fields = [letter + topic for topic, _ in pairs for letter in (b"n:", b"b:", b"f:", b"k:")]
        with unavailable("read topics"):
            values = await execute(self._redis, "HMGET", keys.topic_figures(tenant), *fields)
        return list(_topics(pairs, values))


@lru_cache(maxsize=256)
def _facts(kind: str, qos: int, retained: bool) -> bytes:
    return orjson.dumps({"kind": kind, "qos": qos, "retained": retained})


def _topics(pairs: Sequence[tuple[bytes, bytes]], values: Sequence[Any]) -> Iterator[KnownTopic]:
    for (topic, seen), messages, size, first, facts in zip(
        pairs, values[::4], values[1::4], values[2::4], values[3::4], strict=True
    ):
        # Forgotten between the two look-ups.
        if messages is not None and facts is not None:
            yield KnownTopic(
                topic=topic.decode(),
                messages=int(messages),
                bytes=int(size),
                first_seen_ms=int(first),
                last_seen_ms=int(float(seen)),
                **orjson.loads(facts),
            )
