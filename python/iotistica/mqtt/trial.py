"""One connection to any broker, to tell whether it would let a client in. Nothing is retried.

Neither client library can be used: both look the host up again, so that an address that was checked
need not be the one that is called, one of them connects with a blocking call, and both turn reason
codes into sentences of their own. Two packets are all that there is to it.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from dataclasses import dataclass

_CONNACK, _DISCONNECT = 0x20, b"\xe0\x00"
_MOST_BYTES = 64 * 1024

# MQTT 5.0 section 3.2.2.2, and what a broker of MQTT 3.1.1 answers (section 3.2.2.3 there).
_REASONS = {
    0x00: "Success",
    0x01: "Unacceptable protocol version",
    0x80: "Unspecified error",
    0x81: "Malformed Packet",
    0x82: "Protocol Error",
    0x83: "Implementation specific error",
    0x84: "Unsupported Protocol Version",
    0x85: "Client Identifier not valid",
    0x86: "Bad User Name or Password",
    0x87: "Not authorized",
    0x88: "Server unavailable",
    0x89: "Server busy",
    0x8A: "Banned",
    0x8C: "Bad authentication method",
    0x90: "Topic Name invalid",
    0x95: "Packet too large",
    0x97: "Quota exceeded",
    0x99: "Payload format invalid",
    0x9A: "Retain not supported",
    0x9B: "QoS not supported",
    0x9C: "Use another server",
    0x9D: "Server moved",
    0x9F: "Connection rate exceeded",
}

# Properties of a CONNACK: numbers by their size, texts and bytes with their length before them.
_SIZES = {
    **dict.fromkeys((0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((0x13, 0x21, 0x22), 2),
    **dict.fromkeys((0x11, 0x27), 4),
}
_TEXTS = (0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F)
_USER_PROPERTY = 0x26


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect, and as whom. TLS is used where there is a context for it."""

    address: str
    """An address and not a name, so that nothing is looked up here."""
    port: int
    host: str
    """Its name, for TLS."""
    tls: ssl.SSLContext | None
    client_id: str
    username: str | None
    password: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a broker says of itself in its CONNACK (MQTT 5.0 section 3.2.2.3)."""

    receive_maximum: int = 65_535
    maximum_qos: int = 2
    maximum_packet_bytes: int | None = None
    """None is no limit."""
    session_expiry_s: int | None = None
    """None is what the client asked for."""
    shared_subscriptions: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it."""

    connected: bool
    reason: str
    code: int | None = None
    tls: str | None = None
    seconds: float = 0.0
    limits: Limits = Limits()


async def attempt(target: Target, *, timeout_s: float) -> Result:
    """Connect, read the broker's answer, and leave; never raises for what the broker does."""
    started = time.monotonic()
    code: int | None = None
    version: str | None = None
    limits = Limits()
    try:
        async with asyncio.timeout(timeout_s):
            code, version, limits = await _knock(target)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except ssl.SSLError as error:
        reason = f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or error}"
    except asyncio.IncompleteReadError:
        reason = "the connection was closed before an answer"
    except (OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
    else:
        reason = _REASONS.get(code, f"reason code 0x{code:02X}")
    seconds = round(time.monotonic() - started, 4)
    return Result(
        connected=code == 0,
        reason=reason,
        code=code,
        tls=version,
        seconds=seconds,
        limits=limits,
    )


async def _knock(target: Target) -> tuple[int, str | None, Limits]:
    """Reason code of the CONNACK, the version of TLS, and limits."""
    reader, writer = await asyncio.open_connection(
        target.address,
        target.port,
        ssl=target.tls,
        server_hostname=target.host if target.tls is not None else None,
        limit=_MOST_BYTES,
    )
    try:
        session = writer.get_extra_info("ssl_object")
        writer.write(connect_packet(target))
        kind, body = await _packet(reader)
        if kind != _CONNACK or len(body) < 2:
            raise ValueError("the answer is no CONNACK; is it a broker?")
        if body[1] == 0:
            writer.write(_DISCONNECT)
            await writer.drain()
        version = session.version() if session is not None else None
        return body[1], version, limits_of(body[2:])
    finally:
        writer.transport.abort()


def limits_of(properties: bytes) -> Limits:
    """Limits out of the properties of a CONNACK, their length first (MQTT 5.0 section 2.2.2).

    Raises `ValueError` for what is none; MQTT 3.1.1 has no properties.
    """
    length, at = _number(properties, 0)
    values, end = {}, at + length
    if len(properties) < end:
        raise ValueError("the properties of the CONNACK are cut short")
    while at < end:
        name = properties[at]
        size, start = _extent(properties, name, at + 1)
        values[name] = int.from_bytes(properties[at + 1 : start + size])
        at = start + size
    if at != end:
        raise ValueError("the properties of the CONNACK are malformed")
    return Limits(
        receive_maximum=values.get(0x21, 65_535),
        maximum_qos=values.get(0x24, 2),
        maximum_packet_bytes=values.get(0x27),
        session_expiry_s=values.get(0x11),
        shared_subscriptions=values.get(0x2A, 1) != 0,
    )


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends; 0 where nothing is."""
    number = 0
    for shift in (0, 7, 14, 21):
        if at >= len(data):
            return 0, at
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
    return number, at


def _extent(data: bytes, name: int, at: int) -> tuple[int, int]:
    """Bytes of a property's last part, and where that starts."""
    if (size := _SIZES.get(name)) is not None:
        return size, at
    if name == _USER_PROPERTY:
        at += 2 + int.from_bytes(data[at : at + 2])
    elif name not in _TEXTS:
        raise ValueError(f"the CONNACK has a property 0x{name:02X}, which MQTT 5 does not know")
    return int.from_bytes(data[at : at + 2]), at + 2


def connect_packet(target: Target) -> bytes:
    """CONNECT with a clean start and no session after it (MQTT 5.0 section 3.1)."""
    flags = 0x02
    payload = _text(target.client_id)
    if target.username is not None:
        flags |= 0x80
        payload += _text(target.username)
    if target.password is not None:
        flags |= 0x40
        payload += _text(target.password)
    body = _text("MQTT") + struct.pack(">BBH", 5, flags, 30) + b"\0" + payload
    return b"\x10" + _length(len(body)) + body


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    kind = (await reader.readexactly(1))[0]
    length = 0
    for shift in (0, 7, 14, 21):
        byte = (await reader.readexactly(1))[0]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    if length > _MOST_BYTES:
        raise ValueError("the answer is no CONNACK; is it a broker?")
    return kind & 0xF0, await reader.readexactly(length)


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 0xFFFF:
        raise ValueError(f"a text of {len(encoded)} bytes; MQTT allows 65535")
    return struct.pack(">H", len(encoded)) + encoded


def _length(number: int) -> bytes:
    parts = bytearray()
    while True:
        number, part = divmod(number, 128)
        parts.append(part | (0x80 if number else 0))
        if not number:
            return bytes(parts)
