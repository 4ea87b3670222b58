"""Which tenants may send, remembered; asked again when an unknown one appears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable

_MAX_UNKNOWN = 10_000


class Tenants:
    """Cache of tenant ids. The database is asked at most once in `refresh_s`, however many
    strangers appear."""

    def __init__(self, load: Callable[[], Awaitable[Iterable[str]]], *, refresh_s: float) -> None:
        self._load = load
        self._refresh_s = refresh_s
        self._lock = asyncio.Lock()
        self._loaded_at = float("-inf")
        self._unknown: dict[str, float] = {}
        self.known: set[str] = set()
        self.error: str | None = None
        """Why the last attempt to load failed."""

    async def warm_up(self) -> None:
        """Load them before the first message asks; waits while the database is away."""
        async with self._lock:
            if not self.known:
                await self._refresh()

    def is_unknown(self, tenant: str) -> bool:
        """Whether the database was asked for it so recently that the answer still counts."""
        until = self._unknown.get(tenant)
        if until is not None and until < time.monotonic():
            del self._unknown[tenant]
            return False
        return until is not None

    async def holds(self, tenant: str) -> bool:
        """Whether the tenant exists, as the database says after this call; waits while it is away.

        Never answers no from an older reading, so a tenant that was just made is not refused.
        """
        asked = time.monotonic()
        async with self._lock:
            while tenant not in self.known and self._loaded_at <= asked:
                await self._refresh()
        if tenant in self.known:
            return True
        if len(self._unknown) >= _MAX_UNKNOWN:
            self._unknown.clear()
        self._unknown[tenant] = self._loaded_at + self._refresh_s
        return False

    async def _refresh(self) -> None:
        backoff = Backoff(first_s=max(self._refresh_s / 4, 0.05))
        await asyncio.sleep(max(self._loaded_at + self._refresh_s - time.monotonic(), 0))
        while True:
            started = time.monotonic()
            try:
                self.known = set(await self._load())
            except StoreUnavailable as error:
                self.error = str(error)
                await asyncio.sleep(backoff.next_s())
            else:
                self.error = None
                self._loaded_at = started
                return
