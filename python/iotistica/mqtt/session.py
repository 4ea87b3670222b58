"""One MQTT connection as the rest of iotistica sees it, whichever client library carries it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iotistica.errors import IotisticaError, StoreUnavailable

_PUBLISH_BUFFER_BYTES = 1 << 20


class Disconnected(StoreUnavailable):
    """The connection to the broker is gone; a new session must be opened."""


class Refused(IotisticaError):
    """The broker answered no: to the connection, a subscription or a publication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that a connection is opened with."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = None
    client_id: str
    clean_start: bool = False
    session_expiry_s: int = 0
    receive_maximum: int = 65_535
    max_in_flight_messages: int = 65_535
    max_in_flight_bytes: int = 64 << 20
    keep_alive_s: int = 30
    connect_timeout_s: float = 10.0


class Message:
    """A message received. It counts as in flight until `Session.acknowledge` is called for it."""

    __slots__ = ("acknowledged", "packet_id", "payload", "retain", "topic")

    def __init__(
        self, topic: str, payload: bytes, packet_id: int | None, *, retain: bool = False
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.packet_id = packet_id
        self.retain = retain
        self.acknowledged = False

    @property
    def qos(self) -> int:
        """0 or 1; nobody subscribes with more."""
        return 0 if self.packet_id is None else 1


class Engine(Protocol):
    """What a client library has to do for a session. All but the coroutines return at once."""

    async def open(self) -> bool:
        """Connect; whether the broker resumed a session. Raises `Disconnected`, `Refused`."""

    async def subscribe(self, topic_filter: str, qos: int, *, retain_as_published: bool) -> None:
        """Raises `Disconnected`, `Refused`."""

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Start a publication; its packet id, None for QoS 0."""

    def confirm(self, packet_ids: Sequence[int]) -> None:
        """Send PUBACKs, in one write."""

    def hold(self) -> None:
        """Stop reading from the socket, so that TCP holds the broker back."""

    def release(self) -> None:
        """Go on reading."""

    def unsent(self) -> int:
        """Bytes that wait for the socket."""

    async def flush(self) -> None:
        """Wait until most of them are written."""

    async def close(self, *, graceful: bool) -> None:
        """End the connection, with DISCONNECT where `graceful`."""


class Session:
    """An open connection. It ends with the connection: another one is another session.

    Packet ids of an earlier connection can therefore never be acknowledged on a later one.
    """

    def __init__(self, options: Options) -> None:
        self._max_messages = options.max_in_flight_messages
        self._max_bytes = options.max_in_flight_bytes
        self._engine: Engine
        self._arrived: list[Message] = []
        self._waiter: asyncio.Future[None] | None = None
        self._in_flight: deque[Message] = deque()
        self._in_flight_bytes = 0
        self._held = False
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._window = asyncio.Semaphore(options.receive_maximum)
        self._error: Exception | None = None
        self.resumed = False

    async def open(self, engine: Engine) -> None:
        """Connect by `engine`. Raises `Disconnected`, `Refused`."""
        self._engine = engine
        self.resumed = await engine.open()

    async def close(self) -> None:
        """Disconnect. The broker keeps what was not acknowledged for the session's expiry."""
        graceful = self._error is None
        self.lost(Disconnected("the session was closed"))
        await self._engine.close(graceful=graceful)

    @property
    def in_flight(self) -> int:
        """Messages received and not yet acknowledged."""
        return len(self._in_flight)

    async def subscribe(
        self, *topic_filters: str, qos: int = 1, retain_as_published: bool = True
    ) -> None:
        """Subscribe to each filter. Raises `Disconnected`, `Refused`.

        Without `retain_as_published`, the flag of a message says that it was retained before.
        """
        for topic_filter in topic_filters:
            self._check()
            await self._engine.subscribe(topic_filter, qos, retain_as_published=retain_as_published)

    async def receive(self) -> list[Message]:
        """All messages that are there, in order of arrival; waits for the first.

        Raises `Disconnected`, at once even where messages were left: they come again.
        """
        while not self._arrived:
            self._check()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._check()
        messages, self._arrived = self._arrived, []
        return messages

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Allow the broker to forget these messages; PUBACKs leave in order of arrival.

        Where an earlier message is still open, theirs wait for it (MQTT 5.0 section 4.6).
        Does nothing once the connection is lost.
        """
        for message in messages:
            message.acknowledged = True
        if self._error is not None:
            return
        in_flight, packet_ids, freed = self._in_flight, [], 0
        while in_flight and in_flight[0].acknowledged:
            message = in_flight.popleft()
            freed += len(message.payload)
            if message.packet_id is not None:
                packet_ids.append(message.packet_id)
        self._in_flight_bytes -= freed
        if packet_ids:
            self._engine.confirm(packet_ids)
        if self._held and not self._over_limit():
            self._held = False
            self._engine.release()

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
    ) -> None:
        """Publish and, with QoS 1, wait for the PUBACK. Raises `Disconnected`, `Refused`."""
        confirmation = await self._start(topic, payload, qos, retain)
        if confirmation is not None:
            await confirmation

    async def publish_many(
        self, messages: Iterable[tuple[str, bytes]], *, qos: int = 1, retain: bool = False
    ) -> None:
        """Publish all of them pipelined, then wait for the PUBACKs of all.

        Raises `Disconnected`, or the first `Refused` once every message was answered.
        """
        confirmations = []
        for topic, payload in messages:
            confirmation = await self._start(topic, payload, qos, retain)
            if confirmation is not None:
                confirmations.append(confirmation)
        results = await asyncio.gather(*confirmations, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _start(
        self, topic: str, payload: bytes, qos: int, retain: bool
    ) -> asyncio.Future[None] | None:
        self._check()
        if qos:
            await self._window.acquire()
        if self._engine.unsent() > _PUBLISH_BUFFER_BYTES:
            await self._engine.flush()
        self._check()
        packet_id = self._engine.send(topic, payload, qos, retain)
        if packet_id is None:
            return None
        confirmation: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unconfirmed[packet_id] = confirmation
        return confirmation

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _over_limit(self) -> bool:
        return len(self._in_flight) > self._max_messages or self._in_flight_bytes > self._max_bytes

    # What an engine reports

    def is_unconfirmed(self, packet_id: int) -> bool:
        """Whether a publication still uses this packet id."""
        return packet_id in self._unconfirmed

    def narrow_window(self, receive_maximum: int) -> None:
        """Take the broker's Receive Maximum for our publications."""
        self._window = asyncio.Semaphore(min(receive_maximum, 65_535))

    def arrived(self, message: Message) -> None:
        """A PUBLISH came in."""
        self._arrived.append(message)
        self._in_flight.append(message)
        self._in_flight_bytes += len(message.payload)
        if self._over_limit() and not self._held:
            # Mosquitto 2.0.11 ignores Receive Maximum after the first window, and QoS 0 has none.
            self._held = True
            self._engine.hold()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def confirmed(self, packet_id: int, refusal: str | None) -> None:
        """A PUBACK came in; `refusal` names its reason where it was negative."""
        confirmation = self._unconfirmed.pop(packet_id, None)
        if confirmation is None:
            return
        self._window.release()
        if confirmation.done():
            return
        if refusal is None:
            confirmation.set_result(None)
        else:
            confirmation.set_exception(Refused(f"the broker refused a publication: {refusal}"))

    def lost(self, error: Exception) -> None:
        """The connection ended; everything that waits for it is told."""
        if self._error is not None:
            return
        self._error = error
        self._in_flight.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        for confirmation in self._unconfirmed.values():
            if not confirmation.done():
                confirmation.set_exception(error)
                # Whoever gave up waiting must not make asyncio complain.
                confirmation.exception()
            self._window.release()
        self._unconfirmed.clear()
