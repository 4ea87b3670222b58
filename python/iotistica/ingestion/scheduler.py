"""Whose turn it is: fair queueing over the lanes of all tenants. Pure.

Start-time fair queueing: every tenant has a tag that grows by the cost of what it was given, and
the smallest tag is next. A tenant that comes back begins where the others are: nobody saves up
turns, and nobody pays for having used a system that was idle. The same rule stands between live and
late lanes (backfill, and tenants over their quota): the late ones get `backfill_share` of the work
while live ones wait, and all of it while none does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from iotistica.keys import Feed

LaneKey = tuple[str, Feed]
"""Tenant and feed."""

_COMPACT = 64


class Turn(NamedTuple):
    """A lane may read; `late`: as one of those that let live data pass."""

    lane: LaneKey
    late: bool


class Scheduler:
    """Lanes that wait for a turn. Costs are in readings."""

    def __init__(
        self, *, backfill_share: float, readings_allowed: Callable[[str], bool] = lambda _: True
    ) -> None:
        self._readings_allowed = readings_allowed
        self._live, self._late = _Queue(1 - backfill_share), _Queue(backfill_share)
        self._served = 0.0

    def __len__(self) -> int:
        return len(self._live) + len(self._late)

    def __contains__(self, lane: LaneKey) -> bool:
        return lane in self._live or lane in self._late

    def add(self, lane: LaneKey, *, small: bool = False) -> None:
        """The lane has entries; `small`: it is known to have few. Adding it twice does nothing."""
        if lane not in self:
            self._add(self._late if self._is_late(lane) else self._live, lane, small=small)

    def take(self) -> Turn | None:
        """The next turn; its lane waits no longer."""
        while (queue := self._next_queue()) is not None:
            self._served = queue.tag
            lane = queue.take()
            if turn := self._turn(queue, lane):
                return turn
        return None

    def take_small(self) -> Turn | None:
        """The next turn among the live lanes that have few entries."""
        while (lane := self._live.take_small()) is not None:
            if turn := self._turn(self._live, lane):
                return turn
        return None

    def charge(self, turn: Turn, readings: float) -> None:
        """The turn cost so much; what is below zero corrects an earlier charge."""
        (self._late if turn.late else self._live).charge(turn.lane[0], readings)

    def restore(self) -> None:
        """Let tenants that are within their quota again wait among the live ones."""
        for lane in [lane for lane in self._late if not self._is_late(lane)]:
            self._late.remove(lane)
            self._add(self._live, lane, small=False)

    def _is_late(self, lane: LaneKey) -> bool:
        return lane[1] is Feed.BACKFILL or not self._readings_allowed(lane[0])

    def _turn(self, queue: _Queue, lane: LaneKey) -> Turn | None:
        """None where the tenant went over its quota while it waited: then it waits on."""
        if queue is self._live and self._is_late(lane):
            self._add(self._late, lane, small=False)
            return None
        return Turn(lane, queue is self._late)

    def _add(self, queue: _Queue, lane: LaneKey, *, small: bool) -> None:
        if not queue:
            queue.tag = max(queue.tag, self._served)
        queue.add(lane, small=small)

    def _next_queue(self) -> _Queue | None:
        if self._live and self._late:
            return self._late if self._late.tag < self._live.tag else self._live
        return self._live or self._late or None


class _Queue:
    """Lanes in the order of their tenants' tags, and the tag of them all among the queues."""

    def __init__(self, weight: float) -> None:
        self.tag = 0.0 if weight else math.inf
        self._weight = weight
        self._served = 0.0
        self._tags: dict[str, float] = {}
        self._order = count()
        self._waiting: dict[LaneKey, tuple[int, bool]] = {}
        # Tickets (tag, order, lane); one whose tag or order is no longer that of its lane is void.
        self._all: list[tuple[float, int, LaneKey]] = []
        self._small: list[tuple[float, int, LaneKey]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[LaneKey]:
        return iter(self._waiting)

    def __contains__(self, lane: LaneKey) -> bool:
        return lane in self._waiting

    def add(self, lane: LaneKey, *, small: bool) -> None:
        tenant = lane[0]
        self._waiting[lane] = next(self._order), small
        self._set_tag(tenant, max(self._tags.get(tenant, 0.0), self._served))

    def remove(self, lane: LaneKey) -> None:
        del self._waiting[lane]

    def take(self) -> LaneKey:
        """The lane with the smallest tag; there must be one."""
        while True:
            ticket = heappop(self._all)
            if self._is_valid(ticket):
                self._served = ticket[0]
                self.remove(ticket[2])
                return ticket[2]

    def take_small(self) -> LaneKey | None:
        # It overtakes: so the time of the others stands still.
        while self._small:
            ticket = heappop(self._small)
            if self._is_valid(ticket):
                self.remove(ticket[2])
                return ticket[2]
        return None

    def charge(self, tenant: str, readings: float) -> None:
        self.tag += readings / self._weight if self._weight else math.inf
        self._set_tag(tenant, self._tags.get(tenant, 0.0) + readings)

    def _set_tag(self, tenant: str, tag: float) -> None:
        self._tags[tenant] = tag
        for feed in Feed:
            if (lane := (tenant, feed)) in self._waiting:
                order, small = self._waiting[lane]
                self._push(self._all, (tag, order, lane))
                if small:
                    self._push(self._small, (tag, order, lane))

    def _push(
        self, heap: list[tuple[float, int, LaneKey]], ticket: tuple[float, int, LaneKey]
    ) -> None:
        heappush(heap, ticket)
        if len(heap) > _COMPACT + 2 * len(self._waiting):
            heap[:] = {ticket for ticket in heap if self._is_valid(ticket)}
            heapify(heap)

    def _is_valid(self, ticket: tuple[float, int, LaneKey]) -> bool:
        tag, order, lane = ticket
        waiting = self._waiting.get(lane)
        return waiting is not None and waiting[0] == order and self._tags[lane[0]] == tag
