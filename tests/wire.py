"""An MQTT 5 client with nothing between the test and the packets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import mqtt5

P = TypeVar("P")
TIMEOUT_S = 10.0


class Closed(Exception):
    """The broker closed the connection; `packet` is the last one that came, if any."""

    def __init__(self, packet: mqtt5.Packet | None = None) -> None:
        super().__init__(repr(packet))
        self.packet = packet


class Wire:
    """One connection. `connack` is the broker's answer, also when it refuses."""

    def __init__(
        self, port: int, user: str, password: str, *, client_id: str = "", **connect: Any
    ) -> None:
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.buffer = bytearray()
        self.unread: list[mqtt5.Packet] = []
        self._packet_id = 0
        connect = {"clean_start": True, **connect}
        self.send(
            mqtt5.ConnectPacket(client_id, username=user, password=password.encode(), **connect)
        )
        try:
            self.connack = self.expect(mqtt5.ConnAckPacket)
        except (Closed, TimeoutError):
            self.abort()
            raise

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def send(self, *packets: Any) -> None:
        """Send packets."""
        self.connection.sendall(b"".join(packet.write() for packet in packets))

    def receive(self, timeout_s: float = TIMEOUT_S) -> Any:
        """The next packet. Raises `TimeoutError` and `Closed`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                packet, length = mqtt5.read(memoryview(bytes(self.buffer[:70_000])))
            except IndexError:
                pass
            else:
                del self.buffer[:length]
                return packet
            self.connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.connection.recv(65_536)
            except ConnectionError:
                data = b""
            if not data:
                raise Closed
            self.buffer += data

    def expect(self, kind: type[P], timeout_s: float = TIMEOUT_S) -> P:
        """The next packet of a kind; others wait for their turn."""
        for packet in self.unread:
            if isinstance(packet, kind):
                self.unread.remove(packet)
                return packet
        last = None
        while not isinstance(packet := self._next(last, timeout_s), kind):
            self.unread.append(packet)
            last = packet
        return packet

    def _next(self, last: mqtt5.Packet | None, timeout_s: float) -> Any:
        try:
            return self.receive(timeout_s)
        except Closed:
            raise Closed(last) from None

    def packet_id(self) -> int:
        """A packet identifier that is free, as windows are small."""
        self._packet_id = self._packet_id % 65_535 + 1
        return self._packet_id

    def publish(self, topic: str, payload: bytes, **options: Any) -> mqtt5.PubAckReasonCode:
        """Publish with QoS 1 and wait for the answer."""
        self.post(topic, payload, **options)
        return self.expect(mqtt5.PubAckPacket).reason_code

    def post(self, topic: str, payload: bytes, qos: int = 1, **options: Any) -> None:
        """Publish without waiting."""
        packet_id = self.packet_id() if qos else None
        self.send(
            mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS(qos), packet_id=packet_id, **options)
        )

    def publish_all(
        self,
        topic: str,
        payloads: Iterable[bytes],
        *,
        window: int = 100,
        acked: Callable[[bytes], Any] = lambda payload: None,
    ) -> None:
        """Publish all with QoS 1; `acked` is called with each payload that was acknowledged."""
        waiting: dict[int, bytes] = {}
        for payload in payloads:
            self.post(topic, payload)
            waiting[self._packet_id] = payload
            if len(waiting) >= window:
                acked(waiting.pop(self.expect(mqtt5.PubAckPacket).packet_id))
        while waiting:
            acked(waiting.pop(self.expect(mqtt5.PubAckPacket).packet_id))

    def subscribe(self, *filters: str, **options: Any) -> list[mqtt5.SubAckReasonCode]:
        """Subscribe and wait for the answer."""
        identifier = options.pop("subscription_id", None)
        options = {"max_qos": mqtt5.QoS.AT_LEAST_ONCE, **options}
        wanted = [mqtt5.Subscription(topic_filter, **options) for topic_filter in filters]
        packet_id = self.packet_id()
        self.send(mqtt5.SubscribePacket(packet_id, wanted, subscription_id=identifier))
        return self.expect(mqtt5.SubAckPacket).reason_codes

    def messages(
        self, count: int, *, ack: bool = True, timeout_s: float = TIMEOUT_S
    ) -> Iterator[mqtt5.PublishPacket]:
        """The next messages, acknowledged as they are taken."""
        for _ in range(count):
            message = self.expect(mqtt5.PublishPacket, timeout_s)
            if ack and message.packet_id:
                self.send(mqtt5.PubAckPacket(message.packet_id))
            yield message

    def payloads(self, count: int, **options: Any) -> list[bytes]:
        """Payloads of the next messages."""
        return [message.payload for message in self.messages(count, **options)]

    def silent(self, seconds: float = 0.2) -> bool:
        """True if no message comes: a ping that is answered must come first, if any."""
        self.send(mqtt5.PingReqPacket())
        self.expect(mqtt5.PingRespPacket)
        if any(isinstance(packet, mqtt5.PublishPacket) for packet in self.unread):
            return False
        try:
            return not isinstance(self.receive(seconds), mqtt5.PublishPacket)
        except TimeoutError:
            return True

    def close(self) -> None:
        """Say goodbye, and wait until the broker has closed too."""
        self.send(mqtt5.DisconnectPacket())
        self.drain()

    def drain(self) -> mqtt5.Packet | None:
        """Read to the end; returns the last packet."""
        last = None
        try:
            while True:
                last = self.receive()
        except Closed:
            self.connection.close()
            return last

    def abort(self) -> None:
        """Go away without a word."""
        self.connection.close()
