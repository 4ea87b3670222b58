"""Live values for whoever listens now: Redis publish and subscribe. Nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable

from redis.asyncio import Redis

from iotistica.streams.client import unavailable


class Channels:
    """Every method raises `StoreUnavailable`; what nobody listened to is gone by design."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def publish(self, channel: str, payload: bytes) -> None:
        """Tell whoever listens to the channel."""
        await self.publish_many([(channel, payload)])

    async def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Channel and payload of each, in order, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for channel, payload in messages:
            pipeline.publish(channel, payload)
        if len(pipeline):
            with unavailable("publish live values"):
                await pipeline.execute()
