"""The loop of one tenant: read, and hand each batch to a delivery of its own."""

from __future__ import annotations

import asyncio
import time

from iotistica import metrics
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.delivery import Delivery, Stopping
from iotistica.ingestion.pace import Pace
from iotistica.ingestion.station import Lane
from iotistica.streams import Entry

_UNFINISHED = 32  # batches with waiting messages, before the tenant's worker reads no more


class Worker:
    """Reads for one tenant until the process stops; several batches are under way at once."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._station = lane.station
        self._pace = Pace(most_entries=lane.station.settings.read_max_entries)
        self._unfinished = asyncio.Semaphore(_UNFINISHED)
        self._in_hand: set[bytes] = set()
        self._next_claim = 0.0

    async def run(self) -> None:
        """Serve until stopping; returns when everything in hand is settled or given up."""
        backoff = Backoff()
        async with asyncio.TaskGroup() as group:
            while not self._station.stopping.is_set():
                try:
                    entries, again = await self._next()
                except StoreUnavailable as error:
                    self._station.trouble("Redis", error)
                    await self._station.pause(backoff.next_s())
                    continue
                self._station.well("Redis")
                backoff.reset()
                if entries:
                    # A slot before the task: at most one batch is read ahead of the work.
                    await self._unfinished.acquire()
                    await self._station.slots.acquire()
                    group.create_task(self._deliver(entries, again=again))

    async def _next(self) -> tuple[list[Entry], bool]:
        """Idle entries of the dead on a slower tick, else new ones; whether they are old."""
        lane, settings = self._lane, self._station.settings
        if time.monotonic() >= self._next_claim:
            claimed = await self._station.streams.claim(
                lane.tenant,
                lane.consumer,
                min_idle_ms=settings.claim_idle_ms,
                count=self._pace.count,
            )
            claimed = [entry for entry in claimed if entry[0] not in self._in_hand]
            if claimed:
                return claimed, True
            self._next_claim = time.monotonic() + max(settings.claim_idle_ms / 4000, 0.2)
        entries = await self._station.streams.read(
            lane.tenant, lane.consumer, count=self._pace.count, block_ms=settings.read_block_ms
        )
        return entries, False

    async def _deliver(self, entries: list[Entry], *, again: bool) -> None:
        """Takes over a slot, and gives it back when only waiting messages are left."""
        self._in_hand.update(entry[0] for entry in entries)
        metrics.INGESTION_ENTRIES.inc(len(entries))
        try:
            delivery = Delivery(self._lane, entries, again=again)
            try:
                await delivery.store()
            finally:
                self._station.slots.release()
            await delivery.finish()
            self._pace.learn(entries=len(entries), readings=delivery.readings)
        except Stopping:
            return
        finally:
            self._unfinished.release()
            self._in_hand.difference_update(entry[0] for entry in entries)
