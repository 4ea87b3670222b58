"""A broker's figures, of what it publishes below `$SYS`. Pure.

Names are those of Mosquitto, which the built-in broker uses too; other brokers' topics are shown as
they are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

Value: TypeAlias = int | float | str

MOST_TOPICS = 500
"""A broker that publishes more shows the first of them."""
_MOST_CHARACTERS = 256
_WINDOW_S = 60.0

_B = "$SYS/broker/"
_SHOWN: Mapping[str, Mapping[str, str]] = {
    "clients": {
        "connected": "clients/connected",
        "disconnected": "clients/disconnected",
        "total": "clients/total",
        "maximum": "clients/maximum",
    },
    "messages": {
        "received": "messages/received",
        "sent": "messages/sent",
        "publishReceived": "publish/messages/received",
        "publishSent": "publish/messages/sent",
        "publishDropped": "publish/messages/dropped",
        "stored": "store/messages/count",
        "storedBytes": "store/messages/bytes",
    },
    "bytes": {"received": "bytes/received", "sent": "bytes/sent"},
}
_RATES = {
    "messagesReceived": ("messages", "received"),
    "messagesSent": ("messages", "sent"),
    "publishReceived": ("messages", "publishReceived"),
    "publishSent": ("messages", "publishSent"),
    "publishDropped": ("messages", "publishDropped"),
    "bytesReceived": ("bytes", "received"),
    "bytesSent": ("bytes", "sent"),
}
_UPTIME = re.compile(r"(\d{1,15}) seconds")
_INTEGER = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"-?\d{1,18}\.\d{1,18}")


def value(payload: bytes) -> Value:
    """A payload as a number where it is one, else as text, cut short."""
    text = payload.decode(errors="replace").replace("\0", "")[:_MOST_CHARACTERS]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def figures(topics: Mapping[str, Value]) -> dict[str, Any]:
    """Figures by their names; None where the broker does not publish one."""
    found: dict[str, Any] = {
        group: {name: _number(topics.get(_B + topic)) for name, topic in names.items()}
        for group, names in _SHOWN.items()
    }
    clients = found["clients"]
    if clients["disconnected"] is None and None not in (clients["total"], clients["connected"]):
        clients["disconnected"] = max(clients["total"] - clients["connected"], 0)
    version = topics.get(f"{_B}version")
    return {
        "broker": {
            "version": version if isinstance(version, str) else None,
            "uptimeSeconds": _uptime_s(topics.get(f"{_B}uptime")),
        },
        **found,
        "subscriptions": _number(topics.get(f"{_B}subscriptions/count")),
        "retained": _number(topics.get(f"{_B}retained messages/count")),
    }


class Rates:
    """What grew by how much a second, over the last minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int | None]]] = deque()

    def take(self, found: Mapping[str, Any], at_s: float) -> dict[str, float | None]:
        """Rates with these figures as the newest, taken at a time of a clock that only grows."""
        counts = {name: found[group][field] for name, (group, field) in _RATES.items()}
        if self._samples and _fell(self._samples[-1][1], counts):
            # The broker has started again.
            self._samples.clear()
        self._samples.append((at_s, counts))
        while len(self._samples) > 1 and self._samples[1][0] <= at_s - _WINDOW_S:
            self._samples.popleft()
        first_s, before = self._samples[0]
        return {name: _rate(before[name], counts[name], at_s - first_s) for name in _RATES}


def _fell(before: Mapping[str, int | None], after: Mapping[str, int | None]) -> bool:
    pairs = ((before[name], after[name]) for name in after)
    return any(old is not None and new is not None and new < old for old, new in pairs)


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    if before is None or after is None or seconds <= 0:
        return None
    return round((after - before) / seconds, 3)


def _number(found: Value | None) -> int | None:
    return found if isinstance(found, int) else None


def _uptime_s(found: Value | None) -> int | None:
    match = _UPTIME.match(found) if isinstance(found, str) else None
    return int(match[1]) if match else _number(found)
