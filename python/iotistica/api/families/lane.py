"""The messages of one family in one session: batched, decoded, committed, then acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

from iotistica import keys, log, metrics
from iotistica._native import Limits
from iotistica.api.batch import Letters, Route
from iotistica.api.families.family import Family, Incoming, Refusal
from iotistica.api.families.verdicts import blamed, decoded, unknown_agent, unreadable
from iotistica.api.members import Members
from iotistica.api.outlet import Outlet
from iotistica.api.tenants import Tenants
from iotistica.api.topic_watch import TopicWatch
from iotistica.backoff import Backoff
from iotistica.breaker import Breaker
from iotistica.errors import DatabaseUnavailable, StoreUnavailable
from iotistica.mqtt import Message, Session
from iotistica.streams import DeadLetter

T = TypeVar("T")
_Letters: TypeAlias = dict[str, Letters]

_MOST_MESSAGES = 500
_MOST_BYTES = 8 << 20
_DELAY_S = 0.02

STAGE = "control"

_occasional = log.Occasional(log.get(__name__))


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What the lanes of a process share."""

    members: Members
    tenants: Tenants
    outlet: Outlet
    breaker: Breaker
    limits: Limits
    max_message_bytes: int
    executor: Executor
    """Decodes, so that one large message does not stop the session's keep-alive."""
    seen: Callable[..., None]
    """Is told of agents that sent something."""
    topics: TopicWatch


@dataclass(frozen=True, slots=True)
class _Arrived:
    message: Message
    route: Route
    received_ms: int

    def incoming(self, value: Any = None) -> Incoming:
        route, message = self.route, self.message
        return Incoming(
            tenant=route.tenant,
            agent=route.agent,
            rest=route.rest,
            topic=message.topic,
            value=value,
            payload=message.payload,
            received_ms=self.received_ms,
            retained=message.retain,
        )


class Lane:
    """One writer, so that what an agent sends is written in its order."""

    def __init__(self, name: str, session: Session, family: Family, desk: Desk) -> None:
        self._name = name
        self._session = session
        self._family = family
        self._desk = desk
        self._waiting: deque[_Arrived] = deque()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.held: str | None = None
        """Why its messages wait now."""

    def put(self, message: Message, route: Route, received_ms: int) -> None:
        """Append a message."""
        self._waiting.append(_Arrived(message, route, received_ms))
        self._arrived.set()
        self._idle.clear()

    async def idle(self) -> None:
        """Return when everything that was put is acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit batch after batch, until cancelled."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < _MOST_MESSAGES:
                await asyncio.sleep(_DELAY_S)
            batch = self._next_batch()
            await self._commit(batch)
            self._session.acknowledge(one.message for one in batch)
            metrics.CONTROL_MESSAGES.labels(self._name).inc(len(batch))
            if not self._waiting:
                self._arrived.clear()
                self._idle.set()

    def _next_batch(self) -> list[_Arrived]:
        batch: list[_Arrived] = []
        size = 0
        while self._waiting and len(batch) < _MOST_MESSAGES and size < _MOST_BYTES:
            size += len(self._waiting[0].message.payload)
            batch.append(self._waiting.popleft())
        return batch

    async def _commit(self, batch: Sequence[_Arrived]) -> None:
        """Return when every message took effect or is a dead letter."""
        started = time.monotonic()
        letters: _Letters = {}
        messages = await self._until_done(lambda: self._sort(batch, letters))
        await self._take(messages, letters)
        for letter in letters.values():
            await self._desk.outlet.send(letter)
        metrics.CONTROL_BATCH_SECONDS.labels(self._name).observe(time.monotonic() - started)

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Try until the servers behind it do it; messages are held meanwhile, by the broker too."""
        backoff = Backoff(first_s=0.1, most_s=5.0)
        breaker = self._desk.breaker
        while True:
            if breaker.permits():
                try:
                    done = await work()
                except StoreUnavailable as error:
                    self._failed(error)
                except Exception:
                    breaker.succeeded()
                    raise
                else:
                    breaker.succeeded()
                    self.held = None
                    return done
            await asyncio.sleep(max(backoff.next_s(), min(breaker.retry_after_s(), 5.0)))

    def _failed(self, error: StoreUnavailable) -> None:
        breaker = self._desk.breaker
        if isinstance(error, DatabaseUnavailable) or not breaker.is_closed:
            breaker.failed()
        self.held = f"{self._name} messages wait: {error}"
        metrics.CONTROL_HELD.labels(self._name).inc()
        _occasional.warning("messages are held; the broker keeps them", reason=self.held)

    # Who sent them, and what they say

    async def _sort(self, batch: Sequence[_Arrived], letters: _Letters) -> list[Incoming]:
        desk = self._desk
        members = await desk.members.look_up(one.route.agent for one in batch)
        strange = [one for one in batch if members.get(one.route.agent) != one.route.tenant]
        tenants = {one.route.tenant for one in strange}
        known = {tenant for tenant in tenants if await desk.tenants.holds(tenant)}
        for one in strange:
            tenant = one.route.tenant
            if tenant in known:
                _refuse(letters, tenant, unknown_agent(one.incoming()))
            else:
                error = f"tenant {tenant[:64]!r} does not exist"
                _refuse(letters, keys.STRAY, Refusal(one.incoming(), "unknown_tenant", error))
        ours = [one for one in batch if members.get(one.route.agent) == one.route.tenant]
        desk.seen(*(one.route.agent for one in ours))
        for one in ours:
            desk.topics.count(one.route.tenant, one.route.traffic, one.message)
        return await self._decoded(ours, letters)

    async def _decoded(self, batch: Sequence[_Arrived], letters: _Letters) -> list[Incoming]:
        limit = self._desk.max_message_bytes
        payloads = [one.message.payload for one in batch]
        loop, executor = asyncio.get_running_loop(), self._desk.executor
        values = await loop.run_in_executor(executor, decoded, payloads, self._desk.limits, limit)
        messages = []
        for one, value in zip(batch, values, strict=True):
            message = one.incoming(value)
            if (refusal := unreadable(message)) is not None:
                _refuse(letters, message.tenant, refusal)
            else:
                messages.append(message)
        return messages

    # What the family makes of them

    async def _take(self, messages: Sequence[Incoming], letters: _Letters) -> None:
        if not messages:
            return
        try:
            refusals = await self._until_done(lambda: self._family.take(messages))
        except Exception as error:
            # Also a defect of ours costs the message that meets it, and not its family.
            if len(messages) > 1:
                half = len(messages) // 2
                await self._take(messages[:half], letters)
                await self._take(messages[half:], letters)
                return
            refusals = [blamed(messages[0], error)]
        for refusal in refusals:
            _refuse(letters, refusal.message.tenant, refusal)


def _refuse(letters: _Letters, tenant: str, refusal: Refusal) -> None:
    message, reason = refusal.message, refusal.reason
    metrics.CONTROL_REJECTED.labels(reason).inc()
    what = f"message refused: {reason}"
    _occasional.warning(what, topic=message.topic, error=refusal.error)
    letter = DeadLetter(
        data=message.payload,
        topic=message.topic,
        original_id="",
        error=refusal.error,
        reason=reason,
        stage=STAGE,
        failed_at=datetime.now(UTC),
        agent=message.agent,
        received_ms=message.received_ms,
    )
    letters.setdefault(tenant, Letters(tenant, time.monotonic())).letters.append(letter)
