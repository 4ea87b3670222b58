"""Engine on aiomqtt 3 (3.0.0a1) and its codec `mqtt5`.

The library connects, subscribes and disconnects. Its receive loop, its publish and its keep-alive
are replaced: the first drops QoS 0 messages when nobody waits, the second scans all pending
publications for each, the third ends a connection that we hold back on purpose. The names used
are private, which is why the release is pinned and `test_mqtt.py` proves each.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
import time
from collections.abc import Sequence
from typing import Any

import aiomqtt
import mqtt5

from iotistica.mqtt.session import Disconnected, Message, Options, Refused, Session

_READ_BYTES = 1 << 18
# The broker must not send what the buffer cannot take; it then discards such a message, which is
# better than a connection that fails on it for ever. Our brokers refuse it from the publisher.
_MAX_PACKET_BYTES = 1 << 24
_CLOSE_TIMEOUT_S = 2.0
_SUCCESS = (0, 16)  # PUBACK: success, no matching subscribers

# What it logs, with tracebacks, reaches us as `Disconnected`, and is said once by the caller.
_SILENT = logging.getLogger("iotistica.mqtt.aiomqtt3")
_SILENT.setLevel(logging.CRITICAL + 1)


class _Buffer:
    """In the place of the fixed 16 MiB window: small, so it stays in the cache, and it grows."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.buffer = bytearray(_READ_BYTES)
        self.view = memoryview(self.buffer)
        self.left = self.right = 0

    def write(self, data: bytes) -> None:
        rest = bytes(self.view[self.left : self.right])
        self.left, self.right = 0, len(rest) + len(data)
        if self.right > len(self.buffer):
            self.buffer = bytearray(1 << (self.right - 1).bit_length())
            self.view = memoryview(self.buffer)
        self.view[: len(rest)] = rest
        self.view[len(rest) : self.right] = data


class Aiomqtt3:
    """One connection by aiomqtt 3."""

    def __init__(self, options: Options, session: Session) -> None:
        self._options = options
        self._session = session
        self._packet_id = 0
        self._gate = asyncio.Event()
        self._gate.set()
        self._read_at = 0.0
        # `Any`, because what is replaced below is not the library's public face.
        library: Any = aiomqtt
        self._client = library.Client(
            hostname=options.host,
            port=options.port,
            identifier=options.client_id,
            logger=_SILENT,
            ssl_context=ssl.create_default_context() if options.tls else None,
            username=options.username,
            password=options.password.encode() if options.password is not None else None,
            clean_start=options.clean_start,
            session_expiry_interval=options.session_expiry_s,
            keep_alive=options.keep_alive_s,
            receive_max=options.receive_maximum,
            max_packet_size=_MAX_PACKET_BYTES,
        )
        self._client._buffer_in = _Buffer()
        self._client._receive_loop = self._receive
        self._client._pingreq_loop = self._keep_alive

    async def open(self) -> bool:
        """Connect; whether the broker resumed a session."""
        try:
            async with asyncio.timeout(self._options.connect_timeout_s):
                await self._probe()
                await self._client.__aenter__()
        except (OSError, TimeoutError, aiomqtt.ConnectError, aiomqtt.ProtocolError) as error:
            self._abort()
            raise Disconnected(self._sentence("cannot be reached", error)) from None
        except aiomqtt.NegativeAckError as error:
            self._abort()
            raise Refused(self._sentence("refused the connection", error)) from None
        except BaseException:
            self._abort()
            raise
        self._client._disconnected.add_done_callback(self._ended)
        self._client._tasks.add_done_callback(self._ended)
        acknowledgement = await self._client.connected()
        self._session.narrow_window(acknowledgement.receive_max)
        return bool(acknowledgement.session_present)

    async def _probe(self) -> None:
        """Find out without blocking the loop whether the broker answers.

        The library's own connect is a blocking one; on the same host it answers at once.
        """
        try:
            if ipaddress.ip_address(self._options.host).is_loopback:
                return
        except ValueError:
            if self._options.host == "localhost":
                return
        _, writer = await asyncio.open_connection(self._options.host, self._options.port)
        writer.close()

    def _sentence(self, what: str, error: BaseException) -> str:
        reason = str(error) or type(error).__name__
        return f"the broker at {self._options.host}:{self._options.port} {what}: {reason}"

    def _ended(self, ended: asyncio.Future[None]) -> None:
        cause = None if ended.cancelled() else ended.exception()
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        reason = f": {cause}" if cause else ""
        lost = Disconnected(f"the connection to the broker was lost{reason}")
        self._session.lost(lost)
        # The library waits for the end of its own receive loop, which is not the one that ended.
        for waiting in self._client._pending_subacks.values():
            if not waiting.done():
                waiting.set_exception(lost)

    async def _receive(self) -> None:
        """Read packets until the connection ends; the end is an error, so that it is noticed."""
        reader: asyncio.StreamReader = self._client._reader
        buffer: _Buffer = self._client._buffer_in
        while True:
            # What came together with CONNACK is in the buffer before the first read.
            self._parse(buffer)
            if not self._gate.is_set():
                await self._gate.wait()
            data = await reader.read(_READ_BYTES)
            if not data:
                raise Disconnected("the broker closed it")
            self._read_at = time.monotonic()
            buffer.write(data)

    def _parse(self, buffer: _Buffer) -> None:
        """Every whole packet of the buffer. Raises `Disconnected`."""
        read, view, left, right = mqtt5.read, buffer.view, buffer.left, buffer.right
        arrived, publish = self._session.arrived, mqtt5.PublishPacket
        try:
            while left < right:
                packet, size = read(view[left:right])
                left += size
                if type(packet) is publish:
                    arrived(
                        Message(
                            packet.topic, packet.payload, packet.packet_id, retain=packet.retain
                        )
                    )
                else:
                    self._handle(packet)
        except IndexError:
            pass  # the rest of a packet is on its way
        except ValueError as error:
            raise Disconnected(f"the broker sent a malformed packet: {error}") from None
        finally:
            buffer.left = left

    def _handle(self, packet: Any) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                code = packet.reason_code
                self._session.confirmed(packet.packet_id, None if code in _SUCCESS else code.name)
            case mqtt5.SubAckPacket():
                if waiting := self._client._pending_subacks.get(packet.packet_id):
                    waiting.set_result(packet)
            case mqtt5.DisconnectPacket():
                raise Disconnected(f"the broker ended it: {packet.reason_code.name}")
            case mqtt5.PingRespPacket():
                pass  # any packet proves that the broker lives
            case _:
                raise Disconnected(f"the broker sent an unexpected {type(packet).__name__}")

    async def _keep_alive(self) -> None:
        """Ping whether or not we read: a held connection is alive, a silent one is not."""
        interval_s: float = self._client._keep_alive / 2
        self._read_at = time.monotonic()
        while True:
            await asyncio.sleep(interval_s)
            self._client._writer.write(mqtt5.PingReqPacket().write())
            silence_s = time.monotonic() - self._read_at
            if self._gate.is_set() and silence_s > 3 * interval_s:
                raise Disconnected(f"the broker was silent for {silence_s:.0f} s")

    async def subscribe(self, topic_filter: str, qos: int, *, retain_as_published: bool) -> None:
        """Subscribe to one filter."""
        try:
            await self._client.subscribe(
                topic_filter,
                max_qos=mqtt5.QoS(qos),
                retain_as_published=retain_as_published,
            )
        except aiomqtt.NegativeAckError as error:
            raise Refused(
                self._sentence(f"refused the subscription {topic_filter}", error)
            ) from None
        except (OSError, aiomqtt.ConnectError, aiomqtt.ProtocolError) as error:
            raise Disconnected(self._sentence("is gone", error)) from None

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Write a PUBLISH."""
        packet_id = self._next_packet_id() if qos else None
        packet = mqtt5.PublishPacket(
            topic, payload, qos=mqtt5.QoS(qos), retain=retain, packet_id=packet_id
        )
        self._client._writer.write(packet.write())
        return packet_id

    def _next_packet_id(self) -> int:
        # The window is narrower than the numbers there are, so a free one exists.
        while True:
            self._packet_id = self._packet_id % 65_535 + 1
            if not self._session.is_unconfirmed(self._packet_id):
                return self._packet_id

    def confirm(self, packet_ids: Sequence[int]) -> None:
        """Write PUBACKs."""
        self._client._writer.write(
            b"".join([mqtt5.PubAckPacket(packet_id).write() for packet_id in packet_ids])
        )

    def hold(self) -> None:
        """Stop reading."""
        self._gate.clear()

    def release(self) -> None:
        """Go on reading."""
        self._read_at = time.monotonic()
        self._gate.set()

    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return int(self._client._writer.transport.get_write_buffer_size())

    async def flush(self) -> None:
        """Wait for the transport."""
        try:
            await self._client._writer.drain()
        except OSError as error:
            raise Disconnected(self._sentence("is gone", error)) from None

    async def close(self, *, graceful: bool) -> None:
        """Disconnect."""
        self._client._disconnected.remove_done_callback(self._ended)
        self._client._tasks.remove_done_callback(self._ended)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._client.__aexit__(None, None, None)
        except (OSError, TimeoutError, aiomqtt.ConnectError, ExceptionGroup):
            pass  # the connection was broken already, which is what we want
        finally:
            self._abort()

    def _abort(self) -> None:
        if hasattr(self._client, "_writer"):
            self._client._writer.transport.abort()
        elif hasattr(self._client, "_socket"):
            self._client._socket.close()
