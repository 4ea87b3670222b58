"""ETags of target states, remembered so that a poll that changes nothing asks no server.

Kept right by the database alone: each process looks twice a second, with one small query, for what
has changed since it looked last (`TargetFeed`). What Redis tells makes it faster, and may be lost.
Where the database has not been asked for a while, nothing that is remembered counts any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from iotistica import keys, log, metrics
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.store.changes import Changes, Follower
from iotistica.store.target_feed import Answer
from iotistica.streams.notices import Notices

FRESH_S = 30.0
"""So long after the last look what is remembered may be answered."""
_LOOK_S = 0.5
_TENANT = "tenant/"

_log = log.get(__name__)


class Feed(Protocol):
    """The database's part: `store.TargetFeed`."""

    async def answer(self, tenant: str, agent: str) -> Answer:
        """What an agent gets now."""

    async def changes(self, mark: str) -> Changes:
        """What changed since."""


class Known:
    """What is remembered of one agent.

    As few objects as can be: of a hundred thousand agents none is in the processor's cache, and
    each object that a poll touches is waited for.
    """

    __slots__ = ("default_of", "due", "etag", "size")

    def __init__(self, etag: str, size: int, default_of: str | None) -> None:
        self.etag = etag
        self.size = size
        self.default_of = default_of
        """The tenant whose default the agent gets, if it does."""
        self.due = 0.0
        """When all polls so far would have come at the greatest rate that is allowed."""


class _Load:
    """A read under way, which a change that is told meanwhile makes worthless."""

    __slots__ = ("is_stale",)

    def __init__(self) -> None:
        self.is_stale = False


class TargetCache:
    """The ETags that one process remembers. `get` may be called in any thread."""

    def __init__(
        self,
        feed: Feed,
        *,
        most: int,
        redis_url: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._redis_url = redis_url
        self._most = most
        self._clock = clock
        self._known: dict[str, Known] = {}
        self._loads: dict[str, set[_Load]] = {}
        self._fresh_until = float("-inf")
        self._follower = Follower(feed)
        self.heard = asyncio.Event()
        """Set while Redis is listened to."""

    def get(self, agent: str) -> Known | None:
        """What is remembered of an agent, if it still counts."""
        return self._known.get(agent) if self._clock() < self._fresh_until else None

    @property
    def size(self) -> int:
        """Agents that are remembered."""
        return len(self._known)

    async def load(self, tenant: str, agent: str) -> Answer:
        """What an agent gets now, from the database; remembered from then on.

        Raises `StoreUnavailable`, `NotFound`.
        """
        while True:
            load = _Load()
            loads = self._loads.setdefault(agent, set())
            loads.add(load)
            try:
                answer = await self._feed.answer(tenant, agent)
            finally:
                loads.discard(load)
                if not loads:
                    self._loads.pop(agent, None)
            if not load.is_stale:
                self._remember(tenant, agent, answer)
                return answer

    def _remember(self, tenant: str, agent: str, answer: Answer) -> None:
        if len(self._known) >= self._most and agent not in self._known:
            del self._known[next(iter(self._known))]
        default_of = tenant if answer.is_default else None
        self._known[agent] = Known(quoted(answer.etag), len(answer.body), default_of)

    def forget(self, agent: str) -> None:
        """Ask again for this agent, whose target state has changed."""
        self._known.pop(agent, None)
        for load in self._loads.get(agent, ()):
            load.is_stale = True

    def forget_default(self, tenant: str) -> None:
        """Ask again for all agents that get the default of this tenant."""
        for agent in [a for a, known in self._known.items() if known.default_of == tenant]:
            del self._known[agent]
        self._spoil_loads()

    def forget_all(self) -> None:
        """Ask again for every agent."""
        self._known.clear()
        self._spoil_loads()

    def _spoil_loads(self) -> None:
        for loads in self._loads.values():
            for load in loads:
                load.is_stale = True

    def tell(self, notice: str) -> None:
        """Take a notice on `keys.TARGETS_CHANNEL` into account."""
        if notice.startswith(_TENANT):
            self.forget_default(notice.removeprefix(_TENANT))
        else:
            self.forget(notice)

    async def look(self) -> None:
        """Forget what has changed since the last look. Raises `StoreUnavailable`."""
        began = self._clock()
        async with self._follower.look() as changes:
            if changes is None:
                self.forget_all()
            else:
                for agent in changes.agents:
                    self.forget(agent)
                for tenant in changes.tenants:
                    self.forget_default(tenant)
        self._fresh_until = began + FRESH_S

    async def run(self) -> None:
        """Keep right what is remembered, until cancelled."""
        metrics.TARGETS_KNOWN.set_function(lambda: self.size)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            if self._redis_url is not None:
                told = Notices(self._redis_url, keys.TARGETS_CHANNEL)
                # What a gap hides, the next look finds.
                group.create_task(told.receive(self.tell, lambda: None, self.heard))

    async def _follow(self) -> None:
        backoff, away = Backoff(first_s=_LOOK_S, most_s=5.0), False
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                if not away:
                    _log.warning("changes of target states cannot be seen", error=str(error))
                away = True
                await asyncio.sleep(backoff.next_s())
                continue
            if away:
                _log.info("changes of target states are seen again")
            away = False
            backoff.reset()
            await asyncio.sleep(_LOOK_S)


def quoted(etag: str) -> str:
    """As RFC 9110 wants it, and every proxy; agents give back what they got."""
    return f'"{etag}"'


def notice_of(*, agent: object = None, tenant: str = "") -> tuple[str, bytes]:
    """Channel and payload of the notice that something has changed."""
    return keys.TARGETS_CHANNEL, (f"{_TENANT}{tenant}" if agent is None else str(agent)).encode()
