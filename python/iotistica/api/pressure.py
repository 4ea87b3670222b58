"""How full Redis is, for the bridge to stop before it is too full."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

from iotistica import log, metrics
from iotistica.errors import StoreUnavailable
from iotistica.keys import Feed
from iotistica.settings import Settings
from iotistica.streams import Streams

_LOG = log.get(__name__)
_PERIOD_S = 1.0
_RELEASE = 0.8
"""A mark is passed downwards at this share of it, so that nothing flaps."""


@dataclass(slots=True)
class Mark:
    """A level that counts as high from `high` on, and as low again at a share of it. Pure."""

    high: float
    is_high: bool = False

    def see(self, level: float) -> bool:
        """Take a level into account; whether it counts as high."""
        self.is_high = level >= (self.high * _RELEASE if self.is_high else self.high)
        return self.is_high


class Pressure:
    """Memory of Redis, and depth of the streams that this process writes to."""

    def __init__(self, settings: Settings, streams: Streams) -> None:
        self._streams = streams
        self._memory = Mark(settings.redis_memory_high_pct / 100)
        self._high_entries = settings.stream_high_entries
        self._depths: dict[tuple[str, Feed], Mark] = {}
        self._seen: set[str] = set()
        self._level = 0.0
        self._generation: str | None = None
        self.error: str | None = "Redis has not answered yet"
        """Why the last look failed."""

    @property
    def reason(self) -> str | None:
        """Why messages go to disk, where they do."""
        if self._memory.is_high:
            return (
                f"Redis uses {self._level:.0%} of its memory; from {self._memory.high:.0%} on "
                "messages go to disk"
            )
        deep = sorted({tenant for (tenant, _), mark in self._depths.items() if mark.is_high})
        if deep:
            return (
                f"the stream of {', '.join(map(repr, deep[:3]))} holds more than "
                f"{self._high_entries} entries; messages go to disk"
            )
        return None

    def is_high(self, tenant: str, feed: Feed = Feed.LIVE) -> bool:
        """Whether the stream must get nothing now."""
        self._seen.add(tenant)
        if self._memory.is_high:
            return True
        mark = self._depths.get((tenant, feed))
        return mark is not None and mark.is_high

    async def watch(self) -> None:
        """Look every second, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                self.error = str(error)
            else:
                self.error = None
            await asyncio.sleep(_PERIOD_S)

    async def look(self) -> None:
        """Measure once. Raises `StoreUnavailable`."""
        generation = await self._streams.generation(uuid.uuid4().hex)
        if self._generation not in (None, generation):
            _LOG.error("Redis has lost its data")
            metrics.REDIS_LOSSES.inc()
        self._generation = generation
        self._level = await self._streams.memory_ratio()
        self._memory.see(self._level)
        metrics.REDIS_PRESSURE.set(self._level)
        # Those that got something since the last look, and those that were deep then.
        seen, self._seen = self._seen, set()
        seen |= {tenant for tenant, _ in self._depths}
        feeds = [(tenant, feed) for tenant in sorted(seen) for feed in Feed]
        for place, length in zip(feeds, await self._streams.lengths(feeds), strict=True):
            mark = self._depths.setdefault(place, Mark(self._high_entries))
            if not mark.see(length):
                del self._depths[place]
