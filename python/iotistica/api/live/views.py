"""What a client is shown of a channel: from what is stored, and from what is published. Pure.

A value has a newest state, so a client that reads slowly is sent that and none in between. Events
are each sent, in their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from iotistica.instants import iso
from iotistica.store.reports import SYSTEM_METRICS

Document = Mapping[str, Any]
"""What was published on a channel (reference section 3)."""

_MIB = 1024 * 1024
MOST_POINTS = 120
_MOST_TOPICS = 1000
_MACHINE = (
    *SYSTEM_METRICS,
    "uptime",
    "hostname",
    "os_version",
    "architecture",
    "agent_version",
    "local_ip",
    "ip_address",
    "mac_address",
    "is_online",
    "top_processes",
)


class View(Protocol):
    """A value as one client sees it."""

    def restore(self, stored: Any) -> None:
        """Begin anew with what is stored."""

    def take(self, document: Document) -> bool:
        """Take in what was published; whether there is anything new to show."""

    def content(self) -> Any:
        """What is new since the last time, as `data`."""


class SystemInfo:
    """Numbers and facts of an agent's machine, always all that are known."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def restore(self, stored: Any) -> None:
        """`stored` is the agent's state as reported."""
        self._known = {name: stored[name] for name in _MACHINE if name in stored}

    def take(self, document: Document) -> bool:
        """A report of metrics, which has null where it says nothing."""
        told = _object(document.get("metrics"))
        news = {name: told[name] for name in _MACHINE if told.get(name) is not None}
        self._known |= news
        return bool(news)

    def content(self) -> Any:
        return dict(self._known)


class Interfaces:
    """Network interfaces of an agent."""

    def __init__(self) -> None:
        self._interfaces: list[Any] = []

    def restore(self, stored: Any) -> None:
        """`stored` is the agent's state as reported."""
        self.take({"metrics": {"network_interfaces": stored.get("network_interfaces") or []}})

    def take(self, document: Document) -> bool:
        found = _object(document.get("metrics")).get("network_interfaces")
        if not isinstance(found, list):
            return False
        self._interfaces = found
        return True

    def content(self) -> Any:
        return {"interfaces": self._interfaces}


class History:
    """The last numbers of a machine as curves; all of them each time, so that one that was not
    sent is not missed. Memory is in MiB, whichever way it came."""

    def __init__(self) -> None:
        self._cpu, self._memory, self._network = (_points() for _ in range(3))
        self._newest = ""

    def restore(self, stored: Any) -> None:
        """`stored` are moments, the newest first: `recorded_at` and the metrics' names."""
        for points in (self._cpu, self._memory):
            points.clear()
        self._newest = ""
        for moment in reversed(stored):
            self._add(iso(moment["recorded_at"]), moment)

    def take(self, document: Document) -> bool:
        at = document.get("timestamp")
        # A report that was kept for later is for the store; a curve does not run backward.
        if not isinstance(at, str) or at <= self._newest:
            return False
        return self._add(at, _object(document.get("metrics")))

    def content(self) -> Any:
        return {
            "cpu": list(self._cpu),
            "memory": list(self._memory),
            "network": list(self._network),
        }

    def _add(self, at: str, numbers: Document) -> bool:
        added = False
        if (cpu := _number(numbers.get("cpu_usage"))) is not None:
            self._cpu.append({"time": at, "value": cpu})
            added = True
        used, total = (_number(numbers.get(name)) for name in ("memory_usage", "memory_total"))
        if used is not None and total is not None:
            unit = 1 if total < _MIB else _MIB  # no machine has less: that is MiB already
            available = max(total - used, 0) / unit
            self._memory.append({"time": at, "used": used / unit, "available": available})
            added = True
        network = _object(numbers.get("network"))
        down, up = (_number(network.get(name)) for name in ("download", "upload"))
        if down is not None and up is not None:
            self._network.append({"time": at, "download": down, "upload": up})
            added = True
        if added:
            self._newest = at
        return added


class State:
    """Fields of an agent's state: all that are stored, then those that a report has; null is one
    that was removed."""

    def __init__(self) -> None:
        self._news: dict[str, Any] = {}

    def restore(self, stored: Any) -> None:
        self._news = dict(stored)

    def take(self, document: Document) -> bool:
        self._news |= _object(document.get("state"))
        return bool(self._news)

    def content(self) -> Any:
        news, self._news = self._news, {}
        return news


class Presence:
    """Whether an agent is there."""

    def __init__(self) -> None:
        self._online: Any = None

    def restore(self, stored: Any) -> None:
        self._online = stored

    def take(self, document: Document) -> bool:
        self._online = document.get("online")
        return True

    def content(self) -> Any:
        return {"online": self._online}


class Fleet:
    """Who of a tenant's agents came or went since the last time."""

    def __init__(self) -> None:
        self._news: dict[str, Any] = {}

    def restore(self, stored: Any) -> None:
        """Nothing: a fleet may have many thousands; lists of agents are asked for by pages."""

    def take(self, document: Document) -> bool:
        agent, online = document.get("deviceUuid"), document.get("online")
        self._news[str(agent)] = {"deviceUuid": agent, "online": online}
        return True

    def content(self) -> Any:
        news, self._news = self._news, {}
        return {"agents": list(news.values())}


class BrokerFigures:
    """What the broker says about itself, as it was said last."""

    def __init__(self) -> None:
        self._figures: Any = None

    def restore(self, stored: Any) -> None:
        self._figures = stored

    def take(self, document: Document) -> bool:
        self._figures = document
        return True

    def content(self) -> Any:
        return self._figures


class Topics:
    """Topics that are known, then what came on which since the last time."""

    def __init__(self) -> None:
        self._news: dict[str, dict[str, Any]] = {}
        self._is_whole = True

    def restore(self, stored: Any) -> None:
        """`stored` are topics as shown, those with the newest messages first."""
        self._news = {one["topic"]: one for one in stored[:_MOST_TOPICS]}
        self._is_whole = True

    def take(self, document: Document) -> bool:
        for one in _objects(document.get("topics")):
            topic = str(one.get("topic"))
            before = self._news.get(topic)
            if before is None and len(self._news) >= _MOST_TOPICS:
                continue
            added = dict(one)
            if before is not None:
                for count in ("messages", "bytes"):
                    sums = (_number(each.get(count)) or 0 for each in (before, one))
                    added[count] = sum(sums)
            self._news[topic] = {**(before or {}), **added}
        return bool(self._news)

    def content(self) -> Any:
        news, self._news = self._news, {}
        whole, self._is_whole = self._is_whole, False
        return {"whole": whole, "topics": list(news.values())}


def _points() -> deque[dict[str, Any]]:
    return deque(maxlen=MOST_POINTS)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> Iterable[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None


def moment_of(document: Document, now: datetime) -> str:
    """When it happened: what the message says, else now."""
    at = document.get("timestamp")
    return at if isinstance(at, str) else iso(now)
