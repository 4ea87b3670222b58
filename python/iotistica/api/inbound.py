"""What the bridge does with the messages of one MQTT session: sort, batch, hand to Redis, confirm.

The order is the promise: a message is acknowledged to the broker only after Redis or the disk has
it, as telemetry or as a dead letter. Whatever ends earlier, the broker sends it again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from iotistica import keys, log, metrics, tasks
from iotistica._native import InvalidTopic
from iotistica.api.batch import Batch, Joined, Letters, Route, Routes, Telemetry, join
from iotistica.api.outlet import Outlet
from iotistica.api.tenants import Tenants
from iotistica.api.topic_watch import TopicWatch
from iotistica.keys import Feed
from iotistica.mqtt import Message, Session
from iotistica.quotas import Quotas
from iotistica.settings import Settings
from iotistica.streams import DeadLetter

# Each write takes a connection of the pool; more at once would not make Redis any faster.
_MAX_WRITES = 8

_occasional = log.Occasional(log.get(__name__))


class Inbound:
    """The messages of one session, from reception to acknowledgement.

    It dies with its session: what it had not finished is cancelled, because the broker sends it
    again on the next one.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        *,
        outlet: Outlet,
        quotas: Quotas,
        tenants: Tenants,
        routes: Routes,
        topics: TopicWatch,
        heard: Callable[..., None] | None = None,
    ) -> None:
        self._session = session
        self._max_message_bytes = settings.max_message_bytes
        self._max_messages = settings.batch_max_messages
        self._max_bytes = settings.batch_max_bytes
        self._delay_s = settings.batch_max_delay_ms / 1000
        self._outlet = outlet
        self._quotas = quotas
        self._tenants = tenants
        self._routes = routes
        self._topics = topics
        self._heard = heard
        self._telemetry: dict[str, Telemetry] = {}
        self._letters: dict[str, Letters] = {}
        self._strangers: dict[str, list[tuple[Message, Route]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes: dict[str, deque[Batch]] = {}
        """What is on its way, by tenant; a lane that is here has a task."""
        self._writes = asyncio.Semaphore(_MAX_WRITES)
        self._timer: asyncio.TimerHandle | None = None
        metrics.BRIDGE_IN_FLIGHT.set_function(lambda: session.in_flight)

    async def run(self) -> None:
        """Take messages until the session is lost. Raises `Disconnected`."""
        while True:
            messages = await self._session.receive()
            stamp = b"%d-" % (time.time_ns() // 1_000_000)
            for message in messages:
                self._sort(message, stamp)
            if self._timer is None and (self._telemetry or self._letters):
                self._timer = asyncio.get_running_loop().call_later(self._delay_s, self._flush)

    async def finish(self, grace_s: float) -> None:
        """Hand over what was received, for `grace_s` at the most, then give up the rest."""
        self._flush()
        deadline = time.monotonic() + grace_s
        # A task may start others: a stranger that turns out to be known is then handed over.
        while self._tasks and (left_s := deadline - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        await self.cancel()

    async def cancel(self) -> None:
        """Give up what is not finished; the broker still has it."""
        if self._timer is not None:
            self._timer.cancel()
        await tasks.end(self._tasks)

    def _sort(self, message: Message, stamp: bytes) -> None:
        route = self._routes.get(message.topic)
        if route is None:
            route = self._first_seen(message)
            if route is None:
                return
        if route.tenant not in self._tenants.known or route.tenant in self._strangers:
            # Also where the answer is here and those who waited for it are not yet sorted: none
            # may overtake them.
            self._hold(message, route)
        elif len(message.payload) > self._max_message_bytes:
            self._refuse_large(message, route)
        elif route.kind == "endpoints":
            self._append(message, route, stamp)
        else:
            # A subscription of an older version may live on in the session: no loss, the control
            # processes hear it too.
            self._confirm([message])

    def _append(self, message: Message, route: Route, stamp: bytes) -> None:
        batch = self._telemetry.get(route.tenant)
        if batch is None:
            batch = self._telemetry[route.tenant] = Telemetry(route.tenant, time.monotonic())
        fields = batch.fields
        fields.append(b"%b%d %b" % (stamp, len(batch.messages), message.topic.encode()))
        fields.append(message.payload)
        batch.messages.append(message)
        size = len(message.payload)
        batch.size += size
        traffic = route.traffic
        if traffic.messages:
            traffic.messages += 1
            traffic.bytes += size
        else:
            self._topics.first(route.tenant, traffic, message)
        if len(batch.messages) >= self._max_messages or batch.size >= self._max_bytes:
            del self._telemetry[route.tenant]
            self._hand_over(batch)

    def _first_seen(self, message: Message) -> Route | None:
        if message.topic == keys.BROKER_DROPPED_TOPIC:
            if message.payload.isdigit():
                metrics.BROKER_DROPPED.set(int(message.payload))
            self._session.acknowledge([message])
            return None
        try:
            return self._routes.parse(message.topic)
        except InvalidTopic as error:
            self._refuse(message, None, reason="invalid_topic", error=str(error))
            return None

    # Strangers: messages whose tenant is not known (yet)

    def _hold(self, message: Message, route: Route) -> None:
        if waiting := self._strangers.get(route.tenant):
            waiting.append((message, route))
        elif self._tenants.is_unknown(route.tenant):
            self._refuse_stranger(message, route)
        else:
            self._strangers[route.tenant] = [(message, route)]
            self._start(self._identify(route.tenant))

    async def _identify(self, tenant: str) -> None:
        known = await self._tenants.holds(tenant)
        waiting = self._strangers.pop(tenant)
        stamp = b"%d-" % (time.time_ns() // 1_000_000)
        for message, route in waiting:
            if known:
                self._sort(message, stamp)
            else:
                self._refuse_stranger(message, route)
        self._flush()

    # Refusals

    def _refuse_stranger(self, message: Message, route: Route) -> None:
        error = f"tenant {route.tenant!r} does not exist"
        self._refuse(message, route, reason="unknown_tenant", error=error)

    def _refuse_large(self, message: Message, route: Route) -> None:
        size, limit = len(message.payload), self._max_message_bytes
        error = f"payload has {size} bytes; at most {limit} are allowed"
        self._refuse(message, route, reason="too_large", error=error)

    def _refuse(self, message: Message, route: Route | None, *, reason: str, error: str) -> None:
        metrics.BRIDGE_REJECTED.labels(reason).inc()
        _occasional.warning("message refused: " + reason, topic=message.topic, error=error)
        ours = route is not None and route.tenant in self._tenants.known
        tenant = route.tenant if route is not None and ours else keys.STRAY
        batch = self._letters.get(tenant)
        if batch is None:
            batch = self._letters[tenant] = Letters(tenant, time.monotonic())
        batch.messages.append(message)
        batch.letters.append(
            DeadLetter(
                data=message.payload,
                topic=message.topic,
                original_id="",
                error=error,
                reason=reason,
                stage="bridge",
                failed_at=datetime.now(UTC),
                agent=route.agent if route is not None else "",
            )
        )

    # On their way

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batches: list[Batch] = [*self._telemetry.values(), *self._letters.values()]
        for batch in batches:
            self._hand_over(batch)
        self._telemetry.clear()
        self._letters.clear()

    def _hand_over(self, batch: Batch) -> None:
        if isinstance(batch, Telemetry) and not self._quotas.allows(
            batch.tenant, messages=len(batch.messages), bytes=batch.size
        ):
            batch.feed = Feed.BACKFILL
            metrics.OVER_QUOTA.labels(batch.tenant).inc(len(batch.messages))
        lane = self._lanes.get(batch.tenant)
        if lane is None:
            lane = self._lanes[batch.tenant] = deque((batch,))
            self._start(self._clear(batch.tenant, lane))
        else:
            lane.append(batch)

    async def _clear(self, tenant: str, lane: deque[Batch]) -> None:
        """One tenant's batches one after the other: they stay in order, and while Redis is away one
        of them asks for it and not all. Those that had to wait share a write, and so one fsync."""
        while lane:
            async with self._writes:
                batch = join(lane)
                await self._outlet.send(batch)
            self._delivered(batch)
        del self._lanes[tenant]

    def _delivered(self, batch: Batch) -> None:
        for one in batch.parts if isinstance(batch, Joined) else (batch,):
            if isinstance(one, Telemetry):
                metrics.BRIDGE_MESSAGES.labels("endpoints").inc(len(one.messages))
                metrics.BRIDGE_BYTES.inc(one.size)
            metrics.BRIDGE_BATCH_SECONDS.observe(time.monotonic() - one.opened_at)
        if self._heard is not None and isinstance(batch, Telemetry | Joined):
            self._heard(*batch.counts.agents())
        self._confirm(batch.messages)

    def _confirm(self, messages: list[Message]) -> None:
        self._session.acknowledge(messages)
        metrics.BRIDGE_ACKED.inc(len(messages))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
