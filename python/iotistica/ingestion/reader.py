"""Gives the slots of a process to the lanes of all tenants, in turn.

A turn is one batch: read, encoded, committed, settled by a `Delivery`. A lane has at most one read
under way, and as many batches as there are slots for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from iotistica import log, metrics
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.delivery import Delivery, Stopping
from iotistica.ingestion.lanes import LaneState, Phase, id_ms
from iotistica.ingestion.lookout import Lookout
from iotistica.ingestion.pace import Pace
from iotistica.ingestion.scheduler import LaneKey, Scheduler, Turn
from iotistica.ingestion.slots import Slots
from iotistica.ingestion.station import Lane, Station
from iotistica.quotas import Quotas
from iotistica.streams import FIRST, Entry

_LOG = log.get(__name__)

TURN_READINGS = 400
"""What a turn costs beside its readings: a commit of one takes about the time of so many."""
EXPRESS_READINGS = 2000
"""A lane with no more than this need not wait for a slot: see `Station.express`."""
_UNFINISHED = 32
"""Batches of a lane that have messages waiting, before it reads no more."""


class Reader:
    """Reads for all tenants until the process stops."""

    def __init__(self, station: Station, *, quotas: Quotas) -> None:
        self._station = station
        self._quotas = quotas
        self._lanes: dict[LaneKey, LaneState] = {}
        self._scheduler = Scheduler(
            backfill_share=station.settings.backfill_share,
            readings_allowed=lambda tenant: quotas.within(tenant, "readings"),
        )
        self.lookout = Lookout(station, self._lanes, found=self._enqueue)
        self._wake = asyncio.Event()
        self._held_until = 0.0
        self._lag_ms = 0.0
        station.slots.on_free = station.express.on_free = self._wake.set

    @property
    def lanes(self) -> Iterable[LaneState]:
        """All that are served."""
        return self._lanes.values()

    def serve(self, lane: Lane) -> None:
        """Begin to read a lane."""
        pace = Pace(most_entries=self._station.settings.read_max_entries)
        state = LaneState(lane=lane, pace=pace)
        self._lanes[state.key] = state
        self.lookout.add(state)

    async def run(self) -> None:
        """Returns when told to stop and everything in hand is settled or given up."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self.lookout.run())
            woken = group.create_task(self._wake_at_stop())
            while not self._station.stopping.is_set():
                self._wake.clear()
                while begun := self._next():
                    group.create_task(self._run_turn(*begun))
                await self._wake.wait()
            looking.cancel()
            await woken

    def lag_ms(self) -> float:
        """The longest that an entry waited to be read, or waits now, since the last call."""
        now = time.monotonic()
        queued = (now - lane.queued_at for lane in self.lanes if lane.phase is Phase.QUEUED)
        lag_ms = max(self._lag_ms, *(1000 * waits_s for waits_s in queued), 0.0)
        self._lag_ms = 0.0
        return lag_ms

    def restore(self) -> int:
        """Let tenants within their quota again wait with the live ones; how many lanes wait."""
        self._scheduler.restore()
        return len(self._scheduler)

    async def _wake_at_stop(self) -> None:
        await self._station.stopping.wait()
        self._wake.set()

    def _enqueue(self, state: LaneState, *, small: bool | None = None) -> None:
        """The lane has something to read."""
        if (rest_s := state.rest_until - time.monotonic()) > 0:
            self.lookout.rest(state, rest_s)
        elif state.unfinished >= _UNFINISHED:
            state.phase = Phase.RESTING  # until one is finished
        else:
            state.phase, state.queued_at = Phase.QUEUED, time.monotonic()
            few = state.has_few(EXPRESS_READINGS) if small is None else small
            self._scheduler.add(state.key, small=few)
            self._wake.set()

    def _next(self) -> tuple[Turn, Slots] | None:
        """A turn, and the slot for it."""
        if not self._scheduler or self._is_held_back():
            return None
        station = self._station
        for slots, take in (
            (station.slots, self._scheduler.take),
            (station.express, self._scheduler.take_small),
        ):
            if slots.is_free and (turn := take()) is not None:
                slots.take()
                self._lanes[turn.lane].phase = Phase.READING
                return turn, slots
        return None

    def _is_held_back(self) -> bool:
        """Whether the database has more to do than it should."""
        now = time.monotonic()
        if now < self._held_until:
            return True
        settings = self._station.settings
        if self._station.pool_pct() < settings.database_saturation_high_pct:
            return False
        metrics.BACKPRESSURE.labels("pool").inc()
        pause_s = settings.database_backpressure_sleep_ms / 1000
        self._held_until = now + pause_s
        asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        return True

    async def _run_turn(self, turn: Turn, slots: Slots) -> None:
        """A defect of ours, met in one tenant's data, must not end the others, nor go unseen."""
        state = self._lanes[turn.lane]
        try:
            await self._turn(state, turn, slots)
        except Stopping:
            return
        except Exception:
            metrics.WORKER_CRASHES.inc()
            _LOG.exception("batch crashed", tenant=state.lane.tenant, feed=state.feed)
            pause_s = state.backoff.next_s()
            state.rest_until = time.monotonic() + pause_s
            if state.phase is Phase.READING:
                self.lookout.rest(state, pause_s)
        else:
            state.backoff.reset()

    async def _turn(self, state: LaneState, turn: Turn, slots: Slots) -> None:
        with ExitStack() as slot:
            slot.callback(slots.release)
            entries, again = await self._read(state, few=slots is self._station.express)
            if not entries:
                return
            with self._holding(state, entries):
                delivery = Delivery(state.lane, entries, again=again)
                expected = state.pace.readings_in(len(entries)) + TURN_READINGS
                self._scheduler.charge(turn, expected)
                with metrics.STAGE_SECONDS.labels("store").time():
                    await delivery.store()
                slot.close()  # what is left waits for an agent or a dictionary
                await delivery.finish()
                if delivery.readings:
                    self._quotas.pay(state.lane.tenant, "readings", delivery.readings)
                    self._scheduler.charge(turn, delivery.readings + TURN_READINGS - expected)
                    state.pace.learn(entries=len(entries), readings=delivery.readings)

    @contextmanager
    def _holding(self, state: LaneState, entries: Sequence[Entry]) -> Iterator[None]:
        """Know what is in hand, so that it is not claimed, and not too much."""
        ids = [entry[0] for entry in entries]
        metrics.INGESTION_ENTRIES.inc(len(ids))
        state.in_hand.update(ids)
        state.unfinished += 1
        try:
            yield
        finally:
            state.in_hand.difference_update(ids)
            state.unfinished -= 1
            if state.phase is Phase.RESTING:
                self.lookout.due(state)

    async def _read(self, state: LaneState, *, few: bool) -> tuple[list[Entry], bool]:
        """Entries of the dead where there may be some, else new ones; whether they are old."""
        try:
            with metrics.STAGE_SECONDS.labels("read").time():
                if state.claims:
                    return await self._claim(state), True
                return await self._read_new(state, few=few), False
        except StoreUnavailable as error:
            self._station.trouble("Redis", error)
            self.lookout.rest(state, state.backoff.next_s())
            return [], False

    async def _read_new(self, state: LaneState, *, few: bool) -> list[Entry]:
        lane, wanted = state.lane, EXPRESS_READINGS if few else self._full_batch()
        count = state.pace.entries_for(wanted)
        entries = await self._station.streams.read(
            lane.tenant, lane.consumer, count=count, block_ms=0, feed=lane.feed
        )
        if not entries:
            # Another process was quicker, or entries were deleted unread: those count forever.
            self.lookout.rest(state, state.futile.next_s())
            return entries
        state.futile.reset()
        self._lag_ms = max(self._lag_ms, self.lookout.now_ms() - id_ms(entries[0][0]))
        if len(entries) == count:
            self._enqueue(state, small=False)
        else:
            self.lookout.due(state)
        return entries

    async def _claim(self, state: LaneState) -> list[Entry]:
        lane = state.lane
        entries, state.claims_from = await self._station.streams.claim(
            lane.tenant,
            lane.consumer,
            min_idle_ms=self._station.settings.claim_idle_ms,
            count=state.pace.entries_for(self._full_batch()),
            start=state.claims_from,
            feed=lane.feed,
        )
        state.claims = state.claims_from != FIRST
        self.lookout.due(state)
        entries = [entry for entry in entries if entry[0] not in state.in_hand]
        metrics.CLAIMED.inc(len(entries))
        return entries

    def _full_batch(self) -> float:
        return self._station.settings.batch_readings * self._station.pressure.share
