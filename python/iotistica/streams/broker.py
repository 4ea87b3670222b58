"""What the broker says about itself, as one process collects it and all others answer it."""

from __future__ import annotations

from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from iotistica import keys
from iotistica.streams.client import execute, transact, unavailable

KEPT_MINUTES = 1440
_FIGURES_TTL_S = 7 * 86_400

_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class BrokerFigures:
    """The figures of one broker. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def hold(self, name: str, *, for_s: float) -> bool:
        """Whether process `name` is the one that collects, for so long from now."""
        with unavailable("tell who watches the broker"):
            command = ("EVAL", _HOLD, 1, keys.BROKER_MONITOR, name, int(for_s * 1000))
            return bool(await execute(self._redis, *command))

    async def leave(self, name: str) -> None:
        """Let another process collect, at once."""
        with unavailable("tell who watches the broker"):
            await execute(self._redis, "EVAL", _LEAVE, 1, keys.BROKER_MONITOR, name)

    async def put(self, figures: dict[str, Any]) -> None:
        """Write the figures as of now, and tell whoever listens."""
        text = orjson.dumps(figures)
        with unavailable("write the figures of the broker"):
            await transact(
                self._redis,
                ("SET", keys.BROKER_FIGURES, text, "EX", _FIGURES_TTL_S),
                ("PUBLISH", keys.BROKER_CHANNEL, text),
            )

    async def current(self) -> dict[str, Any] | None:
        """The figures that were written last; None where there were none for a week."""
        with unavailable("read the figures of the broker"):
            text = await execute(self._redis, "GET", keys.BROKER_FIGURES)
        return orjson.loads(text) if text is not None else None

    async def add_point(self, minute_ms: int, point: dict[str, Any]) -> None:
        """Keep a minute of the history; a minute that is there, or a later one, stays as it is."""
        command = ("XADD", keys.BROKER_HISTORY, "MAXLEN", KEPT_MINUTES, f"{minute_ms}-1")
        with unavailable("write the history of the broker"):
            try:
                await execute(self._redis, *command, "point", orjson.dumps(point))
            except ResponseError as error:
                if "equal or smaller" not in str(error):
                    raise

    async def history(self, *, since_ms: int, count: int = KEPT_MINUTES) -> list[dict[str, Any]]:
        """Minutes from then on, the oldest first; at most the newest `count`."""
        with unavailable("read the history of the broker"):
            found = await execute(
                self._redis, "XREVRANGE", keys.BROKER_HISTORY, "+", since_ms, "COUNT", count
            )
        return [orjson.loads(fields[1]) for _, fields in reversed(found)]
