"""Telemetry payloads as real agents publish them, in every encoding (reference 1.4 and 2)."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson
import ormsgpack

from iotistica.simulator.dictionary import Dictionary
from iotistica.simulator.plan import METRICS_PER_SAMPLE, Format
from iotistica.simulator.series import Series, State

_EPOCH = datetime(1970, 1, 1)
DEFLATE_LEVEL = 1
"""Half the time of level 6, and a tenth more bytes."""


@dataclass(frozen=True, slots=True)
class Span:
    """Times of the samples in one message: `start_us + n * step_us`."""

    start_us: int
    step_us: int


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    """`2026-11-23T16:53:22`; kept, as the samples of a fast fleet share few seconds."""
    return (_EPOCH + timedelta(seconds=second)).isoformat()


def iso(time_us: int) -> str:
    """ISO 8601 in UTC with milliseconds, as JavaScript writes it; microseconds only if needed."""
    second, fraction = divmod(time_us, 1_000_000)
    milliseconds, rest = divmod(fraction, 1000)
    return (
        f"{_second(second)}.{fraction:06d}Z" if rest else f"{_second(second)}.{milliseconds:03d}Z"
    )


def widths(readings: int) -> list[int]:
    """Readings in each sample of a message of `readings`: fives and a remainder."""
    full, rest = divmod(readings, METRICS_PER_SAMPLE)
    return [METRICS_PER_SAMPLE] * full + ([rest] if rest else [])


class Payloads:
    """Makes the payloads of one agent; pure but for the random part of message ids."""

    def __init__(
        self,
        agent: str,
        series: Series,
        readings: int,
        rng: random.Random,
        *,
        learning: bool = False,
    ) -> None:
        self.agent = agent
        self.series = series
        self.widths = widths(readings)
        self.dictionary = Dictionary(series.protocol, learning=learning)
        self._rng = rng
        protocol = series.protocol
        self._qualities = {
            State.GOOD: protocol.good,
            State.DOUBTFUL: protocol.doubtful,
            State.BAD: protocol.bad,
        }
        self._fixed = [
            {"metric": metric.name, "value": None, "unit": metric.unit, "quality": None}
            | {"timestamp": "", "protocol": protocol.name, **metric.extra}
            for metric in protocol.metrics
        ]
        self._devices = [(name, _device(agent, name)) for name in protocol.devices]

    def message(self, span: Span, stamp: Callable[[int], Any] = iso) -> dict[str, Any]:
        """One publish in the "custom" endpoints format; `stamp` writes the timestamps."""
        messages, protocol = [], self.series.protocol.name
        time_us = span.start_us
        for index, width in enumerate(self.widths):
            time_us = span.start_us + index * span.step_us
            name, uuid = self._devices[index % len(self._devices)]
            messages.append(
                {
                    "protocol": protocol,
                    "deviceUuid": uuid,
                    "deviceName": name,
                    "timestamp": (written := stamp(time_us)),
                    "readings": self._readings(time_us, width, written),
                }
            )
        suffix = f"{self._rng.getrandbits(32):08x}"
        return {
            "sensor": f"{protocol}-gateway",
            "timestamp": stamp(time_us),
            "protocol": protocol,
            "messages": messages,
            "msgId": f"{self.agent}-{time_us // 1000}-{suffix}",
        }

    def _readings(self, time_us: int, width: int, stamp: Any) -> list[dict[str, Any]]:
        state, values = self.series.sample(time_us)
        changing = {"quality": self._qualities[state], "timestamp": stamp}
        return [
            {**fixed, "value": value, **changing}
            for fixed, value in zip(self._fixed[:width], values, strict=False)
        ]

    def encode(self, message: dict[str, Any], form: Format) -> bytes:
        """The bytes of a message in one format (not `MIXED`)."""
        match form:
            case Format.JSON:
                return orjson.dumps(message)
            case Format.MSGPACK:
                return ormsgpack.packb(message)
            case Format.JSON_DEFLATE:
                return zlib.compress(orjson.dumps(message), DEFLATE_LEVEL)
            case Format.MSGPACK_DEFLATE:
                return zlib.compress(ormsgpack.packb(message), DEFLATE_LEVEL)
            case Format.COMPACT:
                return ormsgpack.packb(self.dictionary.compact(message))
            case Format.LEGACY:
                return orjson.dumps(self.dictionary.compact_legacy(message))
        raise ValueError(f"{form} is not the format of one payload")


def _device(agent: str, name: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{agent}/{name}"))
