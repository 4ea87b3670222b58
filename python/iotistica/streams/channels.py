"""Live values for whoever listens now: Redis publish and subscribe. Nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Redis

from iotistica.streams.client import execute, unavailable
from iotistica.streams.scripts import script

_AT_ONCE = 500
_PUBLISH = script("publish")


class Channels:
    """Every method raises `StoreUnavailable`; what nobody listened to is gone by design."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def publish(self, channel: str, payload: bytes) -> None:
        """Tell whoever listens to the channel."""
        await self.publish_many([(channel, payload)])

    async def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Channel and payload of each, in order."""
        flat: list[str | bytes] = [part for message in messages for part in message]
        with unavailable("publish live values"):
            for first in range(0, len(flat), 2 * _AT_ONCE):
                some = flat[first : first + 2 * _AT_ONCE]
                await execute(self._redis, "EVAL", _PUBLISH, 0, *some)
