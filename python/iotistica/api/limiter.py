"""Rate limits over several processes: exact in total, and without Redis while somebody is modest.

Half of a limit is divided among the processes, each of which spends its part by itself; the other
half lies in Redis and is granted in chunks. So the sum of what all let through in a window is never
over the limit, whoever asks whichever process, and most callers never cost a round trip. A process
that alone serves a caller can give it its own part and all that lies in Redis.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from iotistica.errors import StoreUnavailable, TooMany
from iotistica.streams.grants import Grants

WINDOW_S = 60
_MOST_KEYS = 50_000
_AWAY_S = 1.0
_CHUNKS = 4


@dataclass(slots=True)
class _Purse:
    """What one key may still spend in this window, as far as this process knows."""

    left: int
    is_last: bool = False
    """Whether there is nothing more to get."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Limiter:
    """Counts in fixed windows of a minute."""

    def __init__(
        self,
        grants: Grants,
        *,
        processes: int,
        most_keys: int = _MOST_KEYS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._grants = grants
        self._processes = processes
        self._most_keys = most_keys
        self._clock = clock
        self._window = -1
        self._purses: dict[tuple[str, str], _Purse] = {}
        self._away_until = 0.0

    async def take(self, limit: str, key: str, most: int) -> None:
        """Count one for a key under a limit of so many a minute. Raises `TooMany`."""
        now = self._clock()
        if (window := int(now // WINDOW_S)) != self._window:
            self._window, self._purses = window, {}
        own = most // (2 * self._processes)
        shared = most - own * self._processes
        chunk = max(1, shared // (_CHUNKS * self._processes))
        purse = self._purses.get((limit, key))
        if purse is None and len(self._purses) < self._most_keys:
            purse = self._purses[limit, key] = _Purse(own)
        elif purse is None:
            # No room to remember what it spends: all of it comes from Redis, one by one.
            purse, chunk = _Purse(0), 1
        async with purse.asking:
            if not purse.left and not purse.is_last:
                await self._fill(purse, f"{limit}:{key}:{window}", shared, chunk)
        if purse.left == 0:
            after_s = max(1, math.ceil((window + 1) * WINDOW_S - now))
            raise TooMany(f"more than {most} requests a minute ({limit})", after_s=after_s)
        purse.left -= 1

    def give_back(self, limit: str, key: str) -> None:
        """Take one back that was counted a moment ago."""
        purse = self._purses.get((limit, key))
        if purse is not None and int(self._clock() // WINDOW_S) == self._window:
            purse.left += 1

    async def close(self) -> None:
        """Close the connections."""
        await self._grants.close()

    async def _fill(self, purse: _Purse, key: str, shared: int, chunk: int) -> None:
        if self._clock() >= self._away_until:
            try:
                granted = await self._grants.take(
                    f"iotistica-rate-limit:{key}", chunk, most=shared, window_s=WINDOW_S
                )
            except StoreUnavailable:
                self._away_until = self._clock() + _AWAY_S
            else:
                purse.left += granted
                purse.is_last = not granted
                return
        # Without Redis each process gives out its part of the shared half, too.
        purse.left += max(1, shared // self._processes)
        purse.is_last = True
