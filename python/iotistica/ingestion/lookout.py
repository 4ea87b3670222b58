"""Finds out which lanes have entries to read, and makes again the groups that Redis has lost."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from iotistica import keys, log, metrics
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.ingestion.lanes import LaneState, Loss, Phase
from iotistica.ingestion.scheduler import LaneKey
from iotistica.ingestion.station import Station
from iotistica.keys import Feed
from iotistica.streams import GroupDepth, Watch, watching

_LOG = log.get(__name__)

_ROUND_S = 3.0
"""All lanes are looked at so often: Redis does not tell when somebody destroys a group."""
_POLL_S, _POLL_S_PER_LANE = 0.02, 0.0005
"""The same where Redis tells of nothing."""
_AT_ONCE = 256
_MAKE_AT_ONCE = 32
_REST_PER_LOOK = 9
_MOST_REST_S = 0.01
"""Looking takes a tenth of the time at the most: under load, one look serves many changes."""


class Lookout:
    """Hands every lane that has something to read to `found`, once, until it is `due` again."""

    def __init__(
        self,
        station: Station,
        lanes: Mapping[LaneKey, LaneState],
        *,
        found: Callable[[LaneState], None],
    ) -> None:
        self._station = station
        self._lanes = lanes
        self._found = found
        self._by_stream: dict[bytes, LaneState] = {}
        self._to_see: dict[LaneKey, LaneState] = {}
        self._news = asyncio.Event()
        self._next_round = 0.0
        self._clock_ms = 0.0
        self.losses: deque[Loss] = deque(maxlen=100)
        """The last groups that were lost."""
        station.streams.on_lost = self._lost

    def add(self, state: LaneState) -> None:
        """Begin to look at a lane."""
        self._by_stream[keys.ingestion_stream(*state.key).encode()] = state
        self.due(state)

    def due(self, state: LaneState) -> None:
        """The lane is read as far as is known; from the next look on, Redis tells of more."""
        state.phase = Phase.DUE
        self._to_see[state.key] = state
        self._news.set()

    def rest(self, state: LaneState, seconds: float) -> None:
        """Look at the lane when the time is over."""
        state.phase = Phase.RESTING
        asyncio.get_running_loop().call_later(seconds, self._rested, state)

    def _rested(self, state: LaneState) -> None:
        if state.phase is Phase.RESTING:
            self.due(state)

    def now_ms(self) -> float:
        """The time by the clock of Redis, which made the ids of the entries."""
        return self._clock_ms + time.monotonic() * 1000

    @property
    def claim_period_s(self) -> float:
        """How often a lane is searched for entries of the dead, where any are pending."""
        return max(self._station.settings.claim_idle_ms / 4000, 0.2)

    async def run(self) -> None:
        """Look until the process stops, and until cancelled.

        Both, as a cancellation may get lost in `asyncio.wait_for` before Python 3.12.
        """
        url = self._station.settings.require("redis_url")
        backoff = Backoff(most_s=1.0)
        while not self._station.stopping.is_set():
            try:
                async with watching(url, self._changed) as watch:
                    self._next_round = 0.0
                    await self._follow(watch, backoff)
            except StoreUnavailable as error:
                self._station.trouble("Redis", error)
                metrics.REDIS_CONNECTED.set(0)
                await self._station.pause(backoff.next_s())
                metrics.REDIS_RECONNECTS.inc()

    async def _follow(self, watch: Watch, backoff: Backoff) -> None:
        while not self._station.stopping.is_set():
            await self._until_news(watch)
            started = time.monotonic()
            await self._see(watch)
            self._station.well("Redis")
            metrics.REDIS_CONNECTED.set(1)
            backoff.reset()
            spent_s = time.monotonic() - started
            await asyncio.sleep(min(spent_s * _REST_PER_LOOK, _MOST_REST_S))

    async def _until_news(self, watch: Watch) -> None:
        if not self._to_see:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._next_round - time.monotonic(), 0)):
                    await self._news.wait()
        self._news.clear()
        if time.monotonic() >= self._next_round:
            self._to_see.update(self._lanes)
            self._next_round = time.monotonic() + self._round_s(tracks=watch.tracks)

    def _round_s(self, *, tracks: bool) -> float:
        if not tracks:
            return max(_POLL_S, _POLL_S_PER_LANE * len(self._lanes))
        return min(_ROUND_S, self.claim_period_s)

    async def _see(self, watch: Watch) -> None:
        states = list(islice(self._to_see.values(), _AT_ONCE))
        for state in states:
            del self._to_see[state.key]
        survey = await watch.survey([state.key for state in states])
        self._clock_ms = survey.at_ms - time.monotonic() * 1000
        missing = []
        for state, depth in zip(states, survey.depths, strict=True):
            name = f"Redis ({state.lane.tenant}, {state.feed})"
            if depth is None:
                missing.append(state)
            elif isinstance(depth, StoreUnavailable):
                self._station.trouble(name, depth)
            else:
                self._station.well(name)
                self._note(state, depth, survey.at_ms)
        await self._make(missing)

    def _note(self, state: LaneState, depth: GroupDepth, at_ms: float) -> None:
        has_work = state.look(depth, at_ms, self.claim_period_s)
        if state.phase in (Phase.IDLE, Phase.DUE):
            state.phase = Phase.IDLE
            if has_work:
                self._found(state)

    async def _make(self, states: Sequence[LaneState]) -> None:
        """Make the groups of new lanes, and those that were lost."""
        streams = self._station.streams
        for first in range(0, len(states), _MAKE_AT_ONCE):
            some = states[first : first + _MAKE_AT_ONCE]
            await asyncio.gather(
                *(
                    streams.ensure_group(*state.key)
                    if state.depth is None
                    else streams.restore_group(*state.key)
                    for state in some
                )
            )
            for state in some:
                self._to_see[state.key] = state

    def _changed(self, names: Sequence[bytes] | None) -> None:
        """Redis tells of changes; None: of any, or the connection is gone."""
        if names is None:
            self._next_round = 0.0
            self._news.set()
            return
        for name in names:
            state = self._by_stream.get(name)
            # DUE: the look that is under way may have come before the change.
            if state is not None and state.phase in (Phase.IDLE, Phase.DUE):
                self.due(state)

    def _lost(self, tenant: str, feed: Feed) -> None:
        """A group of ours was gone, and has just been made again."""
        state = self._lanes[tenant, feed]
        loss = Loss(
            tenant=tenant,
            feed=state.feed,
            lost_at=datetime.now(UTC),
            entries_at_most=state.at_most_lost(),
        )
        known, state.depth = state.depth, None
        self.losses.append(loss)
        metrics.GROUPS_RECREATED.labels(tenant).inc()
        metrics.LOST_AT_MOST.labels(tenant).inc(loss.entries_at_most)
        _LOG.error(
            "Redis lost a consumer group, it is made again",
            tenant=tenant,
            feed=loss.feed,
            entries_at_most=loss.entries_at_most,
            last_entries=known.entries if known else None,
            last_lag=known.lag if known else None,
        )
