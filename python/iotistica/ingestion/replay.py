"""Brings what the disk spool holds into PostgreSQL, oldest first, while the same breaker that fills
it lets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from iotistica import log, metrics
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.delivery import DATABASE, Delivery, Stopping
from iotistica.ingestion.origin import FEEDS, FromSpool
from iotistica.ingestion.station import Lane, Station
from iotistica.keys import Feed
from iotistica.spool import Batch

_LOG = log.get(__name__)
_IDLE_S = 0.5
_ADOPT_S = 30.0


class Replayer:
    """One segment after the other. A segment is removed only when all its batches are settled."""

    def __init__(self, station: Station, lane_of: Callable[[str, Feed], Lane]) -> None:
        self._station = station
        self._spool = station.spool
        self._lane_of = lane_of
        self._adopt_at = 0.0
        self._last = ""
        """The segment that failed last."""

    async def run(self) -> None:
        """Replay until the process stops."""
        while not self._station.stopping.is_set():
            try:
                moved = await self.step()
            except Stopping:
                return
            except StoreUnavailable as error:
                _LOG.warning("replay waits", error=str(error))
                moved = False
            if not moved:
                await self._spool.recheck()
                await self._station.pause(_IDLE_S)

    async def step(self) -> bool:
        """Replay the oldest segment; whether there may be more to do at once.

        Raises `Stopping`, `StoreUnavailable`.
        """
        if time.monotonic() >= self._adopt_at:
            self._adopt_at = time.monotonic() + _ADOPT_S
            await self._spool.adopt()
        if self._station.breaker.retry_after_s():
            return False
        name = self._next()
        if name is None:
            await self._probe()
            return False
        self._last = name
        batches, damage = await self._spool.read(name)
        for batch in batches:
            if not await self._deliver(batch):
                return False
        self._last = ""
        await self._spool.done(name, damage)
        metrics.SPOOL_REPLAYED.inc()
        for batch in batches:
            await self._station.streams.forget_spooled(batch.tenant, batch.name)
        return True

    def _next(self) -> str | None:
        """The oldest segment; after one that failed the next, so that it does not block them."""
        names = self._spool.names()
        return next((name for name in names if name > self._last), names[0] if names else None)

    async def _probe(self) -> None:
        """Find out about PostgreSQL also when nothing is to be written."""
        breaker, station = self._station.breaker, self._station
        if breaker.is_closed or not breaker.permits():
            return
        try:
            await station.writer.probe()
        except StoreUnavailable:
            breaker.failed()
        else:
            breaker.succeeded()
            station.well(DATABASE)

    async def _deliver(self, batch: Batch) -> bool:
        lane = self._lane_of(batch.tenant, FEEDS[batch.kind])
        origin = FromSpool(lane, batch)
        delivery = Delivery(lane, batch.entries, again=batch.again, origin=origin)
        async with self._station.slots:
            await delivery.store()
        await delivery.finish()
        return origin.done or not batch.entries
