"""Where the bridge's batches go: to Redis; to disk while Redis does not take them; else nowhere,
and the broker holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from iotistica import log, metrics
from iotistica.api.batch import Batch
from iotistica.api.pressure import Pressure
from iotistica.backoff import Backoff
from iotistica.breaker import Breaker
from iotistica.errors import StoreUnavailable
from iotistica.keys import Feed
from iotistica.spool import Batch as Spooled
from iotistica.spool import Kind, Spool, SpoolFull
from iotistica.streams import Streams

_IDLE_S = 0.5
_ADOPT_S = 30.0
_LOOK_AHEAD = 16
_OVER_QUOTA_SHARE = 0.5
"""Of the spool, for what is over quota; the rest is there for an outage."""
_FEEDS = {Kind.LIVE: Feed.LIVE, Kind.BACKFILL: Feed.BACKFILL}

_LOG = log.get(__name__)
_occasional = log.Occasional(_LOG)


class Outlet:
    """The one way out of a bridge process, and the way back from its disk."""

    def __init__(
        self, streams: Streams, spool: Spool, breaker: Breaker, pressure: Pressure
    ) -> None:
        self._streams = streams
        self._spool = spool
        self._breaker = breaker
        self._pressure = pressure
        self._restored: set[str] = set()
        self._adopt_at = 0.0
        self.error: str | None = None
        """Why Redis did not take the last batch."""
        self.held: str | None = None
        """Why messages are held back now: neither Redis nor the disk takes them."""

    def reasons(self) -> list[str]:
        """What is not as it should be."""
        away = self.error or self._pressure.error
        found = (away, self._pressure.reason, self._spool.error, self.held)
        return list(dict.fromkeys(reason for reason in found if reason is not None))

    async def send(self, batch: Batch) -> None:
        """Return when the batch is safe."""
        backoff = Backoff(first_s=0.05, most_s=2.0)
        while not (await self._to_redis(batch) or await self._to_disk(batch)):
            _occasional.warning("messages are held back; the broker holds", reason=self.held)
            metrics.BRIDGE_HELD.inc()
            await asyncio.sleep(backoff.next_s())
        self.held = None

    async def _to_redis(self, batch: Batch) -> bool:
        if self._pressure.is_high(batch.tenant, batch.feed) or not self._breaker.permits():
            return False
        return await self._try(lambda: batch.write(self._streams))

    async def _try(self, write: Callable[[], Awaitable[object]]) -> bool:
        try:
            await write()
        except StoreUnavailable as error:
            self._breaker.failed()
            self.error = str(error)
            _occasional.warning("Redis does not take messages", error=error)
            return False
        self._breaker.succeeded()
        self.error = None
        return True

    async def _to_disk(self, batch: Batch) -> bool:
        if batch.feed is Feed.BACKFILL and self._spool.pressure > _OVER_QUOTA_SHARE:
            self.held = (
                f"tenant {batch.tenant!r} is over its quota, and its backfill stream is full"
            )
            return False
        try:
            await self._spool.put(*batch.spooled())
        except SpoolFull as error:
            self.held = str(error)
            return False
        metrics.BRIDGE_SPOOLED.inc(len(batch.messages))
        return True

    # The way back

    async def replay(self) -> None:
        """Bring what is on disk to Redis, oldest first, until cancelled."""
        while True:
            try:
                moved = await self.replay_some()
            except StoreUnavailable as error:
                _LOG.warning("replay waits", error=str(error))
                moved = False
            if not moved:
                await self._spool.recheck()
                await asyncio.sleep(_IDLE_S)

    async def replay_some(self) -> bool:
        """Bring one segment to Redis; whether there was one. Raises `StoreUnavailable`."""
        if time.monotonic() >= self._adopt_at:
            self._adopt_at = time.monotonic() + _ADOPT_S
            await self._spool.adopt()
        if self._breaker.retry_after_s():
            return False
        # A tenant whose stream is full must not block what others have on disk.
        for name in self._spool.names()[:_LOOK_AHEAD]:
            if await self._replay_segment(name):
                return True
        return await self._probe()

    async def _replay_segment(self, name: str) -> bool:
        batches, damage = await self._spool.read(name)
        for batch in batches:
            if batch.name in self._restored:
                continue  # the segment is read anew after an interruption
            feed = _FEEDS.get(batch.kind, Feed.LIVE)
            if self._pressure.is_high(batch.tenant, feed) or not self._breaker.permits():
                return False
            if not await self._try(partial(self._restore, batch)):
                return False
            self._restored.add(batch.name)
        await self._spool.done(name, damage)
        self._restored.difference_update(batch.name for batch in batches)
        metrics.SPOOL_REPLAYED.inc()
        return True

    async def _probe(self) -> bool:
        """Find out about Redis also when no message asks for it."""
        if not self._breaker.is_closed and self._breaker.permits():
            await self._try(self._streams.ping)
        return False

    async def _restore(self, batch: Spooled) -> None:
        for _, fields in batch.entries:
            match batch.kind:
                case Kind.LETTERS:
                    await self._streams.add_letter(batch.tenant, fields, counts=batch.counts)
                case kind:
                    await self._streams.add(
                        batch.tenant, fields, counts=batch.counts, feed=_FEEDS[kind]
                    )
