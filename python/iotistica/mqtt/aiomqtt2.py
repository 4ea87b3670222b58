"""Engine on aiomqtt 2.5 and paho.

paho acknowledges by itself unless told otherwise, and aiomqtt 2 neither passes that on nor tells
of refused publications; so paho's callbacks for messages, publications and sockets are ours. The
names used are private to aiomqtt, which is why it is pinned and `test_mqtt.py` proves each.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from iotistica.mqtt.session import Disconnected, Message, Options, Refused, Session

_MAX_PACKET_BYTES = 1 << 24
_READS_AT_ONCE = 64
_CLOSE_TIMEOUT_S = 2.0
_MISC_INTERVAL_S = 1.0

# Typed as `Any`: the other release of the same package is what the type checker sees.
aiomqtt: Any = import_module("aiomqtt")
_properties: Any = import_module("paho.mqtt.properties")
_packet_types: Any = import_module("paho.mqtt.packettypes")
_subscribe_options: Any = import_module("paho.mqtt.subscribeoptions")


class Aiomqtt2:
    """One connection by aiomqtt 2.5."""

    def __init__(self, options: Options, session: Session) -> None:
        self._options = options
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._socket: Any = None
        self._held = False
        self._resumed = False
        self._client = aiomqtt.Client(
            options.host,
            options.port,
            identifier=options.client_id,
            username=options.username,
            password=options.password,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=options.clean_start,
            keepalive=options.keep_alive_s,
            timeout=options.connect_timeout_s,
            # Its own bound would drop messages; the session's limits hold the socket instead.
            max_queued_incoming_messages=0,
            max_inflight_messages=65_535,
            properties=_connect_properties(options),
            tls_context=ssl.create_default_context() if options.tls else None,
        )
        self._client._misc_loop = self._misc
        paho = self._paho = self._client._client
        paho.manual_ack_set(True)
        paho.connect_timeout = options.connect_timeout_s
        paho.on_message = self._on_message
        paho.on_publish = self._on_publish
        paho.on_connect = self._on_connect
        paho.on_socket_open = self._on_socket_open

    async def open(self) -> bool:
        """Connect; whether the broker resumed a session."""
        try:
            await self._client.__aenter__()
        except aiomqtt.exceptions.MqttConnectError as error:
            self._abort()
            raise Refused(self._sentence("refused the connection", error)) from None
        except aiomqtt.MqttError as error:
            self._abort()
            raise Disconnected(self._sentence("cannot be reached", error)) from None
        except BaseException:
            self._abort()
            raise
        self._client._disconnected.add_done_callback(self._ended)
        return self._resumed

    def _sentence(self, what: str, error: BaseException) -> str:
        reason = str(error) or type(error).__name__
        return f"the broker at {self._options.host}:{self._options.port} {what}: {reason}"

    def _ended(self, ended: asyncio.Future[None]) -> None:
        cause = None if ended.cancelled() else ended.exception()
        reason = f": {cause}" if cause else ""
        self._session.lost(Disconnected(f"the connection to the broker was lost{reason}"))

    # paho's callbacks

    def _on_connect(self, paho: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._resumed = bool(flags.session_present)
        self._session.narrow_window(getattr(properties, "ReceiveMaximum", 65_535))
        self._client._on_connect(paho, data, flags, reason, properties)

    def _on_message(self, _paho: Any, _data: Any, message: Any) -> None:
        self._session.arrived(
            Message(
                message.topic,
                bytes(message.payload),
                message.mid if message.qos else None,
                retain=message.retain,
            )
        )

    def _on_publish(
        self, _paho: Any, _data: Any, packet_id: int, reason: Any, _properties: Any
    ) -> None:
        self._session.confirmed(packet_id, str(reason) if reason.is_failure else None)

    def _on_socket_open(self, _paho: Any, _data: Any, sock: Any) -> None:
        # Called in the thread that connects.
        self._loop.call_soon_threadsafe(self._start, sock)

    def _start(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._socket = sock
            self._loop.add_reader(sock.fileno(), self._read)
            self._client._misc_task = self._loop.create_task(self._misc())

    def _read(self) -> None:
        """Read packets while they bring messages; paho alone would read one each turn."""
        try:
            for _ in range(_READS_AT_ONCE):
                before = self._session.in_flight
                self._paho.loop_read()
                if self._session.in_flight == before and not self._decrypted():
                    return
        except Exception as error:
            if not self._client._disconnected.done():
                self._client._disconnected.set_exception(error)

    def _decrypted(self) -> bool:
        """Whether TLS holds bytes which the selector cannot know of."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    async def _misc(self) -> None:
        """paho's keep-alive, which must not mistake a connection that we hold for a dead one."""
        while True:
            if self._held:
                self._paho._last_bytes_received = time.monotonic()
            if self._paho.loop_misc() != 0:
                return
            await asyncio.sleep(_MISC_INTERVAL_S)

    # What the session asks for

    async def subscribe(self, topic_filter: str, qos: int, *, retain_as_published: bool) -> None:
        """Subscribe to one filter."""
        options = _subscribe_options.SubscribeOptions(
            qos=qos, retainAsPublished=retain_as_published
        )
        try:
            reasons = await self._client.subscribe(topic_filter, options=options)
        except aiomqtt.MqttError as error:
            raise Disconnected(self._sentence("is gone", error)) from None
        if any(reason.is_failure for reason in reasons):
            answer = ", ".join(str(reason) for reason in reasons)
            raise Refused(f"the broker refused the subscription {topic_filter}: {answer}")

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int | None:
        """Queue a PUBLISH."""
        info = self._paho.publish(topic, payload, qos, retain)
        if info.rc != 0:
            raise Disconnected(f"the broker cannot be reached: paho says {info.rc!r}")
        return int(info.mid) if qos else None

    def confirm(self, packet_ids: Sequence[int]) -> None:
        """Queue PUBACKs; paho writes its queue when the socket is ready."""
        for packet_id in packet_ids:
            self._paho.ack(packet_id, 1)

    def hold(self) -> None:
        """Stop reading."""
        self._held = True
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def release(self) -> None:
        """Go on reading."""
        self._held = False
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._read)

    def unsent(self) -> int:
        """Nothing that anyone should wait for: paho's queue is bounded by the window."""
        return 0

    async def flush(self) -> None:
        """Wait until paho has written its queue."""
        while self._paho.want_write() and not self._client._disconnected.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def close(self, *, graceful: bool) -> None:
        """Disconnect, after the PUBACKs that wait are written."""
        self._client._disconnected.remove_done_callback(self._ended)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                if graceful:
                    await self.flush()
                await self._client.__aexit__(None, None, None)
        except (aiomqtt.MqttError, OSError, TimeoutError):
            pass  # the connection was broken already, which is what we want
        finally:
            self._abort()

    def _abort(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        if self._client._misc_task is not None:
            self._client._misc_task.cancel()
        if self._client._disconnected.done() and not self._client._disconnected.cancelled():
            self._client._disconnected.exception()
        self._paho._sock_close()


def _connect_properties(options: Options) -> Any:
    properties = _properties.Properties(_packet_types.PacketTypes.CONNECT)
    properties.SessionExpiryInterval = options.session_expiry_s
    properties.ReceiveMaximum = options.receive_maximum
    properties.MaximumPacketSize = _MAX_PACKET_BYTES
    return properties
