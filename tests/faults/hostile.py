"""Payloads that nobody should send: a seeded generator, and what the decoder makes of them.

`python -m tests.faults.hostile --count 1000000` gives each to `encode_batch` among good neighbors
and prints what became of them. Exit codes: 0 as it should be, 1 something was not decided, a
neighbor suffered, memory grew or a batch took too long, 2 wrong argument.
"""

from __future__ import annotations

import copy
import random
import re
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
import ormsgpack

from iotistica.simulator.payloads import Payloads, Span
from iotistica.simulator.plan import PLAIN, Format
from iotistica.simulator.series import Series

READINGS = 10
_BOMB = 16 * 1024 * 1024
"""Inflated bytes of a bomb, twice what is allowed; it travels as 16 kB."""
_ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2**63, -(2**63), 1e308, -0.0, "", " ", "x" * 600, "🦀" * 200),
    *([], {}, [[]], [None] * 50, {"a": {"b": {"c": []}}}, {"": ""}, "NaN", "1e999", b"\xff\xfe"),
)
_PAST: tuple[Any, ...] = (0, 1, "1970-01-01T00:00:00Z", "1970-01-01", 86_400_000, "0")
_FUTURE: tuple[Any, ...] = (
    *("2099-01-01T00:00:00.000Z", "Thu, 01 Jan 2099 00:00:00 GMT", 4_070_908_800),
    *(4_070_908_800_000, 4_070_908_800_000_000, 4_070_908_800_000_000_000),
)
_VALUE = re.compile(rb'"value":[^,}]+')


class Hostile:
    """Hostile payloads of one agent: the same ones for the same seed and time."""

    def __init__(
        self, seed: str, agent: str, *, now_us: int, forms: tuple[Format, ...] = PLAIN
    ) -> None:
        self._rng = random.Random(f"hostile/{seed}")
        self._now_us = now_us // 1000 * 1000
        self._forms = forms
        self._payloads = Payloads(agent, Series(agent, 0), READINGS, self._rng)
        self.dictionary = self._payloads.dictionary.message()

    def make(self, kind: str | None = None) -> tuple[str, bytes]:
        """Kind and bytes of the next one."""
        kind = kind or self._rng.choice(KINDS)
        return kind, _MAKERS[kind](self)

    def good(self, number: int) -> bytes:
        """A payload with nothing wrong, whose readings have times of their own."""
        span = Span(self._now_us - 60_000_000 + number * 4000, 2000)
        return self._payloads.encode(self._payloads.message(span), self._form())

    def _form(self) -> Format:
        return self._rng.choice(self._forms)

    def _message(self, **stamp: Any) -> dict[str, Any]:
        return self._payloads.message(Span(self._now_us, 1000), **stamp)

    def _valid(self) -> bytes:
        return self._payloads.encode(self._message(), self._form())

    def _deflated(self, payload: bytes) -> bytes:
        """As it is, or in a zlib stream."""
        return zlib.compress(payload, 1) if self._rng.random() < 0.5 else payload

    def _dumped(self, message: Any) -> bytes:
        if self._rng.random() < 0.5:
            return self._deflated(ormsgpack.packb(message))
        return self._deflated(orjson.dumps(message, default=lambda odd: odd.hex()))

    # The kinds

    def _truncated(self) -> bytes:
        payload = self._valid()
        return payload[: self._rng.randrange(len(payload))]

    def _flipped(self) -> bytes:
        payload = bytearray(self._valid())
        for _ in range(self._rng.randint(1, 8)):
            payload[self._rng.randrange(len(payload))] ^= 1 << self._rng.randrange(8)
        return bytes(payload)

    def _zip_bomb(self) -> bytes:
        bomb = self._rng.choice(_zip_bombs())
        return bomb if self._rng.random() < 0.8 else bomb[: self._rng.randrange(2, len(bomb))]

    def _nesting_bomb(self) -> bytes:
        depth = int(10 ** self._rng.uniform(1.6, 5.5))
        opening = self._rng.choice((b"[", b'{"a":', b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"))
        return self._deflated(opening * (min(depth, 200_000 // len(opening))))

    def _huge_length(self) -> bytes:
        head = self._rng.choice(_HUGE_HEADS)
        tail = self._rng.choice((b"", b"\xc0" * 100, b"\x01" * self._rng.randrange(1, 2000)))
        if self._rng.random() < 0.2:
            return b'{"messages":[' + b"9" * self._rng.randrange(1, 100_000)
        return self._deflated(head + tail)

    def _wrong_type(self) -> bytes:
        message = self._message()
        for _ in range(self._rng.randint(1, 3)):
            self._replace_one(message)
        return self._dumped(message)

    def _replace_one(self, message: dict[str, Any]) -> None:
        node: Any = message
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = self._rng.choice(list(keys))
            child = node[key]
            if not isinstance(child, dict | list) or not child or self._rng.random() < 0.15:
                node[key] = copy.deepcopy(self._rng.choice(_ODD))
                return
            node = child

    def _not_finite(self) -> bytes:
        if self._rng.random() < 0.5:
            odd = self._rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"nan", b"-1e400"))
            return self._deflated(_VALUE.sub(b'"value":' + odd, orjson.dumps(self._message())))
        message = self._message()
        for sample in message["messages"]:
            for reading in sample["readings"]:
                reading["value"] = self._rng.choice((float("nan"), float("inf"), -float("inf")))
        return self._deflated(ormsgpack.packb(message))

    def _nul_text(self) -> bytes:
        message = self._message()
        sample = self._rng.choice(message["messages"])
        for reading in sample["readings"]:
            reading[self._rng.choice(("metric", "unit", "quality", "note"))] = "a\0b"
        if self._rng.random() < 0.3:
            sample["deviceName"] = "\0"
        return self._dumped(message)

    def _invalid_utf8(self) -> bytes:
        message = self._message()
        mark = "~~~~"
        for reading in message["messages"][0]["readings"]:
            reading[self._rng.choice(("metric", "unit"))] = mark
        odd = self._rng.choice(
            (b"\xff\xfe\xfd\xfc", b"\xc3\x28a\x80", b"\xed\xa0\x80a", b"\xf8\x88aa")
        )
        plain = orjson.dumps if self._rng.random() < 0.5 else ormsgpack.packb
        return self._deflated(plain(message).replace(mark.encode(), odd))

    def _clock_1970(self) -> bytes:
        stamp = self._rng.choice(_PAST)
        return self._dumped(self._message(stamp=lambda _time_us: stamp))

    def _clock_2099(self) -> bytes:
        stamp = self._rng.choice(_FUTURE)
        return self._dumped(self._message(stamp=lambda _time_us: stamp))


_MAKERS: dict[str, Callable[[Hostile], bytes]] = {
    "truncated": Hostile._truncated,
    "bit flipped": Hostile._flipped,
    "zip bomb": Hostile._zip_bomb,
    "nesting bomb": Hostile._nesting_bomb,
    "huge length": Hostile._huge_length,
    "wrong type": Hostile._wrong_type,
    "not finite": Hostile._not_finite,
    "NUL in text": Hostile._nul_text,
    "invalid UTF-8": Hostile._invalid_utf8,
    "clock at 1970": Hostile._clock_1970,
    "clock at 2099": Hostile._clock_2099,
}
KINDS = tuple(_MAKERS)

_HUGE_HEADS = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
    *(
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x81\xa8messages\xdd\x7f\xff\xff\xff",
    ),
    *(b"\x81\xa8messages\xdc\xff\xff", b"\xdd\x00\x03\x0d\x41"),
)


@cache
def _zip_bombs() -> tuple[bytes, ...]:
    empty = zlib.compress(b"\xdd\x00\xff\xff\xff" + b"\xc0" * _BOMB, 9)
    return (
        zlib.compress(b" " * _BOMB, 9),
        zlib.compress(b'{"messages":[' + b" " * _BOMB + b"]}", 9),
        zlib.compress(b'{"messages":[' + b"{}," * (_BOMB // 3) + b"{}]}", 9),
        zlib.compress(b"[" * _BOMB, 9),
        zlib.compress(zlib.compress(b"0" * _BOMB, 9), 9),
        empty,
    )


def main() -> int:
    """The command; its exit code."""
    from tests.faults.ordeal import main as run

    return run(__doc__ or "")


if __name__ == "__main__":
    raise SystemExit(main())
