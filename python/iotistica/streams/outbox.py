"""Messages on their way to agents: web processes put them here, control processes publish them.

At least once: a message leaves the outbox after the broker's PUBACK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from iotistica import keys
from iotistica.errors import StoreUnavailable
from iotistica.streams.client import Argument, Entry, entries, execute, unavailable

MOST_MESSAGES = 100_000
_MAX_TOPIC_BYTES = 65_535
_RETAINED = b"retain"

# All or nothing, so that whoever is refused may simply try again.
_PUT = """
local most, parts = tonumber(ARGV[1]), 3
local waiting = redis.call('XLEN', KEYS[1])
if waiting + (#ARGV - 1) / parts > most then return waiting end
for i = 2, #ARGV, parts do
    local topic, payload, retain = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    redis.call('XADD', KEYS[1], '*', 'topic', topic, 'payload', payload, 'retain', retain)
end
return -1
"""
_DONE = """
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish with QoS 1. Raises `ValueError` for a topic that no broker takes."""

    topic: str
    payload: bytes
    retain: bool = False

    def __post_init__(self) -> None:
        """Check the topic (MQTT 5.0 section 4.7.3)."""
        size = len(self.topic.encode())
        if not 0 < size <= _MAX_TOPIC_BYTES or any(part in self.topic for part in "+#\0"):
            raise ValueError(f"topic {self.topic[:64]!r} is not one to publish on")


class Outbox:
    """The one outbox of a deployment. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis, reader: Redis, *, most: int = MOST_MESSAGES) -> None:
        self._redis = redis
        self._reader = reader
        self._most = most

    async def put(self, messages: Sequence[Outgoing]) -> None:
        """Keep messages until the broker has them: all, or none where the outbox is full."""
        if not messages:
            return
        parts: list[Argument] = []
        for one in messages:
            parts += (one.topic, one.payload, b"1" if one.retain else b"0")
        with unavailable("keep messages for agents"):
            waiting = await execute(self._redis, "EVAL", _PUT, 1, keys.OUTBOX, self._most, *parts)
        if waiting >= 0:
            raise StoreUnavailable(
                f"the outbox holds {waiting} messages for agents, at most {self._most} are allowed;"
                " is a control process connected to the broker?"
            )

    async def read(
        self, consumer: str, *, count: int, block_ms: int = 0, again: bool = False
    ) -> list[Entry]:
        """New messages for this consumer; with `again` those that it read and never finished.

        Waits up to `block_ms` (< 5 s) for the first new one.
        """
        command: tuple[Argument, ...] = (
            *("XREADGROUP", "GROUP", keys.OUTBOX_GROUP, consumer, "COUNT", count),
            *(("BLOCK", block_ms) if block_ms and not again else ()),
            *("STREAMS", keys.OUTBOX, "0" if again else ">"),
        )
        reply = await self._in_group(*command)
        return entries(reply[0][1]) if reply else []

    async def claim(self, consumer: str, *, min_idle_ms: int, count: int) -> list[Entry]:
        """Take over messages that a consumer read so long ago and never finished."""
        command = ("XAUTOCLAIM", keys.OUTBOX, keys.OUTBOX_GROUP, consumer, min_idle_ms, "0-0")
        reply = await self._in_group(*command, "COUNT", count)
        return entries(reply[1])

    async def done(self, ids: Sequence[bytes]) -> None:
        """Remove messages that the broker has."""
        if ids:
            with unavailable("remove what was sent"):
                await execute(self._redis, "EVAL", _DONE, 1, keys.OUTBOX, keys.OUTBOX_GROUP, *ids)

    async def waiting(self) -> int:
        """Messages that the broker does not have yet."""
        with unavailable("measure the outbox"):
            return int(await execute(self._redis, "XLEN", keys.OUTBOX))

    async def _in_group(self, *command: Argument) -> Any:
        with unavailable("read the outbox"):
            try:
                return await execute(self._reader, *command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            await self._make_group()
            return await execute(self._reader, *command)

    async def _make_group(self) -> None:
        try:
            await execute(
                self._redis, "XGROUP", "CREATE", keys.OUTBOX, keys.OUTBOX_GROUP, "0", "MKSTREAM"
            )
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


def outgoing(fields: Sequence[bytes]) -> Outgoing:
    """The message of an entry. Raises `ValueError` for an entry that nobody of ours wrote."""
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    if b"topic" not in named or b"payload" not in named:
        raise ValueError("an entry of the outbox has no topic or payload")
    return Outgoing(named[b"topic"].decode(), named[b"payload"], named.get(_RETAINED) == b"1")
