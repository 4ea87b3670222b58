"""Messages that no agent should send and some do: every one of them must be rejected."""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from functools import cache
from typing import Any

import orjson
import ormsgpack

from iotistica.simulator.payloads import Payloads, Span
from iotistica.simulator.plan import Format

BOMB_BYTES = 16 * 1024 * 1024
"""Inflated size of the bomb, over the default limit of 8 MiB; it travels as 16 KB."""

_BAD_TIMES: tuple[Any, ...] = (
    "1970-01-01T00:00:00.000Z",
    "2099-01-01T00:00:00.000Z",
    "2026-13-45T99:99:99.000Z",
    "yesterday",
    -1,
    4_102_444_800_000,
)
_WRONG_TYPES: tuple[Any, ...] = (True, {}, {"seconds": 1}, {"year": [2026, 11]})


def malformed(payloads: Payloads, span: Span, form: Format, rng: random.Random) -> bytes:
    """A payload that holds nothing worth storing, broken in a random way."""
    match rng.randrange(5):
        case 0:
            return _truncated(payloads.encode(payloads.message(span), form), rng)
        case 1:
            return _flipped(payloads.encode(payloads.message(span), form), rng)
        case 2:
            stamp = rng.choice(_BAD_TIMES)
        case 3:
            stamp = rng.choice(_WRONG_TYPES)
        case _:
            return rng.choice(_bombs())
    return payloads.encode(payloads.message(span, lambda _time_us: stamp), form)


def _truncated(payload: bytes, rng: random.Random) -> bytes:
    return payload[: rng.randrange(1, len(payload))]


def _flipped(payload: bytes, rng: random.Random) -> bytes:
    """Flip the one bit that makes a payload unreadable, as a bad line does.

    Other bits would only change a value, which nobody can tell from a measured one.
    """
    while True:
        broken = bytearray(payload)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        if not _readable(bytes(broken)):
            return bytes(broken)


def _readable(payload: bytes) -> bool:
    with suppress(zlib.error):
        payload = zlib.decompress(payload)
    # ormsgpack takes any first byte for a number and ignores what follows.
    is_map_or_array = payload[0] & 0xE0 == 0x80 or 0xDC <= payload[0] <= 0xDF
    try:
        return (_unpack if is_map_or_array else orjson.loads)(payload) is not None
    except ValueError:
        return False


def _unpack(payload: bytes) -> Any:
    return ormsgpack.unpackb(
        payload, ext_hook=lambda _code, _data: None, option=ormsgpack.OPT_NON_STR_KEYS
    )


@cache
def _bombs() -> tuple[bytes, ...]:
    return (
        zlib.compress(b" " * BOMB_BYTES, 9),
        zlib.compress(b'{"messages":[' + b" " * BOMB_BYTES + b"]}", 9),
        b"[" * 4000,
        b"\x91" * 4000,
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
    )
