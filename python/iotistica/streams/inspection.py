"""What a Redis says of itself. Reads only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from iotistica.streams.client import connect, execute, unavailable

_TIMEOUT_S = 10.0


class Inspection:
    """A connection to look with. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def info(self, section: str) -> Mapping[str, Any]:
        """A section of INFO."""
        with unavailable("be looked at"):
            # The client's own parser has no annotations.
            found: Mapping[str, Any] = await self._redis.info(section)
            return found

    async def setting(self, name: str) -> str | None:
        """A setting; None where CONFIG is not allowed, as managed servers do."""
        with unavailable("be looked at"):
            try:
                reply = await execute(self._redis, "CONFIG", "GET", name)
            except ResponseError:
                return None
        values = list(reply.values()) if isinstance(reply, dict) else reply[1:]
        return _text(values[0]) if values else None

    async def time_s(self) -> float:
        """Its clock."""
        with unavailable("tell the time"):
            seconds, micros = await execute(self._redis, "TIME")
            return int(seconds) + int(micros) / 1e6


@asynccontextmanager
async def inspection(url: str) -> AsyncIterator[Inspection]:
    """Connect; closed at the end. Raises `ConfigError`, `StoreUnavailable`."""
    client = connect(url, timeout_s=_TIMEOUT_S)
    try:
        with unavailable("be reached"):
            await execute(client, "PING")
        yield Inspection(client)
    finally:
        await client.aclose()


async def skew_s(found: Inspection, clock: Callable[[], float] = time.time) -> float:
    """By how many seconds the clock of Redis is ahead of `clock`."""
    before = clock()
    there = await found.time_s()
    return there - (before + clock()) / 2


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
