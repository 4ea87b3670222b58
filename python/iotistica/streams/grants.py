"""What several processes may spend together in a window of time, granted in parts."""

from __future__ import annotations

import asyncio

from iotistica.streams.client import connect, execute, unavailable
from iotistica.streams.scripts import script

_GRANT = script("grant")
_KEPT_WINDOWS = 2
"""Clocks of processes differ: one may still be in a window that has ended for another."""


class Grants:
    """Accounts that begin anew with each window."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._redis = connect(url, timeout_s=timeout_s)
        self._timeout_s = timeout_s

    async def take(self, key: str, wanted: int, *, most: int, window_s: int) -> int:
        """As much of `wanted` as `most` leaves. Raises `StoreUnavailable`, soon."""
        kept_ms = _KEPT_WINDOWS * window_s * 1000
        with unavailable("grant a share of a limit"):
            async with asyncio.timeout(self._timeout_s):
                return int(
                    await execute(self._redis, "EVAL", _GRANT, 1, key, wanted, most, kept_ms)
                )

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
