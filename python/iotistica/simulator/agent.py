"""One simulated agent: it samples, publishes, and keeps what is not acknowledged."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from iotistica._native import format_topic
from iotistica.errors import StoreUnavailable
from iotistica.simulator.faults import malformed
from iotistica.simulator.ledger import AgentLedger, Malformed, digest
from iotistica.simulator.link import Link
from iotistica.simulator.payloads import Payloads, Span
from iotistica.simulator.plan import COMPACTED, PLAIN, Format, Plan
from iotistica.simulator.reports import Reports
from iotistica.simulator.series import Series

_DAY_US = 86_400_000_000
_LONGEST_STEP_US = 5_000_000
_LESSON_MESSAGES = 10
"""An agent that learns does so after so many messages of its own."""
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


Connect = Callable[[str], AbstractAsyncContextManager[Link]]
"""Opens the session of an agent, given its UUID. Raises `StoreUnavailable`."""

Due = Callable[[int, int], float | None]
"""Seconds until agent `index` makes its n-th message; None at the end of the run."""


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """One publish."""

    payload: bytes
    span: Span
    broken: bool = False
    again: bool = False
    """A copy of a message that was published before."""


class Clock:
    """Gives every sample of an agent a time of its own, never later than now."""

    def __init__(self, now_us: int) -> None:
        self.began_us = self._last_us = now_us

    def span(self, samples: int, now_us: int) -> Span:
        """Times of the next `samples`: spread since the last ones, at most 5 s apart."""
        step = min((now_us - self._last_us) // samples, _LONGEST_STEP_US)
        # Agents stamp milliseconds; only one that is faster than its clock needs finer steps.
        grain = 1000 if step >= 1000 else 1
        step = max(step // grain, 1) * grain
        first = (now_us - (samples - 1) * step) // grain * grain
        first = max(first, self._last_us + 1)
        self._last_us = first + (samples - 1) * step
        return Span(first, step)


class _Publisher:
    """Publishes over one session, with a bounded number of messages unacknowledged."""

    def __init__(self, link: Link, group: asyncio.TaskGroup, outstanding: int) -> None:
        self._link, self._group = link, group
        self._slots = asyncio.Semaphore(outstanding)

    async def publish(self, topic: str, message: Message, done: Callable[[Message], None]) -> None:
        """Return when the message is on its way; `done` is called when it is acknowledged."""
        await self._slots.acquire()
        self._group.create_task(self._deliver(topic, message, done))

    async def _deliver(self, topic: str, message: Message, done: Callable[[Message], None]) -> None:
        await self._link.publish(topic, message.payload)
        self._slots.release()
        done(message)


class Agent:
    """Publishes its share of a plan over one session after another."""

    def __init__(self, plan: Plan, uuid: str, tenant: str, index: int) -> None:
        rng = random.Random(f"{plan.seed}/{index}")  # noqa: S311 - a simulation
        self._plan, self._rng = plan, rng
        self._clock = Clock(time.time_ns() // 1000)
        self._payloads = Payloads(
            uuid, Series(uuid, index), plan.readings, rng, learning=plan.learning
        )
        self._topic = format_topic(
            tenant, uuid, f"endpoints/{self._payloads.series.protocol.topic}"
        )
        self._dictionary_topic = format_topic(tenant, uuid, "meta/dictionary")
        self._forms = PLAIN if plan.form is Format.MIXED else (plan.form,)
        self._made = 0
        # In order, and what a lost session leaves is published again by the next.
        self._unsettled: dict[Message, None] = {}
        self._echoes: deque[Message] = deque()
        self._producer: asyncio.Task[None] | None = None
        self._reports = Reports(tenant, uuid, index, plan.seed) if plan.reports else None
        self._stopping = False
        self.uuid, self.index = uuid, index
        self.ledger = AgentLedger(uuid, index, self._clock.began_us)
        self.acknowledged = 0
        self.sessions = 0

    async def run(self, connect: Connect, due: Due) -> None:
        """Publish until the plan is fulfilled or `stop` is called; reconnect with back-off."""
        failures = 0
        while True:
            before = self.acknowledged
            try:
                async with connect(self.uuid) as link:
                    self.sessions += 1
                    await self._session(link, due)
                return
            except* StoreUnavailable:
                failures = 1 if self.acknowledged > before else failures + 1
            pause = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    @property
    def waits(self) -> bool:
        """Whether something is published and not acknowledged."""
        return bool(self._unsettled) or self.sessions == 0

    def stop(self) -> None:
        """Make no more messages; what is published may still be acknowledged."""
        self._stopping = True
        if self._producer is not None:
            self._producer.cancel()

    def close(self) -> AgentLedger:
        """The account, with everything unacknowledged in doubt."""
        for message in self._unsettled:
            if not message.again:
                self.ledger.doubtful.add(message.span)
        return self.ledger

    async def _session(self, link: Link, due: Due) -> None:
        if self._plan.form in COMPACTED:
            dictionary = self._payloads.dictionary.message()
            await link.publish(self._dictionary_topic, dictionary, retain=True)
        async with asyncio.TaskGroup() as group:
            publisher = _Publisher(link, group, self._plan.outstanding)
            for message in tuple(self._unsettled):
                await publisher.publish(self._topic, message, self._settle)
            if not self._stopping:
                producer = self._producer = group.create_task(self._produce(link, publisher, due))
                if self._reports is not None:
                    reporting = group.create_task(self._reports.publish(link))
                    producer.add_done_callback(lambda _: reporting.cancel())

    async def _produce(self, link: Link, publisher: _Publisher, due: Due) -> None:
        while (delay := due(self.index, self._made)) is not None:
            if delay > 0:
                await asyncio.sleep(delay)
            if self._made % _LESSON_MESSAGES == _LESSON_MESSAGES - 1:
                await self._learn(link)
            messages = self._next()
            # Noted before anything can fail, so that whatever was made is published.
            self._unsettled.update(dict.fromkeys(messages))
            for message in messages:
                await publisher.publish(self._topic, message, self._settle)
        while self._echoes:
            echo = self._echoes.popleft()
            self._unsettled[echo] = None
            await publisher.publish(self._topic, echo, self._settle)

    async def _learn(self, link: Link) -> None:
        """Extend the dictionary; the next session tells it whole where this one ends before."""
        if self._plan.form in COMPACTED and (delta := self._payloads.dictionary.learn()):
            await link.publish(f"{self._dictionary_topic}/delta", delta)

    def _settle(self, message: Message) -> None:
        del self._unsettled[message]
        self.acknowledged += 1
        if message.again:
            return
        if message.broken:
            self.ledger.malformed.append(Malformed(message.span, digest(message.payload)))
        else:
            self.ledger.sent.add(message.span)

    def _next(self) -> list[Message]:
        message = self._make()
        messages = [message]
        if self._rng.random() < self._plan.duplicates:
            copy = Message(message.payload, message.span, message.broken, again=True)
            self._echoes.append(copy)
        # A copy follows at once or some messages later, as it does after a lost connection.
        if self._echoes and self._rng.random() < 0.5:
            messages.append(self._echoes.popleft())
        return messages

    def _make(self) -> Message:
        form = self._forms[(self._made + self.index) % len(self._forms)]
        self._made += 1
        span = self._clock.span(len(self._payloads.widths), time.time_ns() // 1000)
        fate = self._rng.random()
        if fate < self._plan.malformed:
            return Message(malformed(self._payloads, span, form, self._rng), span, broken=True)
        if fate < self._plan.malformed + self._plan.late:
            days = self._rng.randint(1, self._plan.late_days)
            span = Span(span.start_us - days * _DAY_US, span.step_us)
        return Message(self._payloads.encode(self._payloads.message(span), form), span)
