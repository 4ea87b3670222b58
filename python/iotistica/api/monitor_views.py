"""Figures and topics as the reference's broker monitor names them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from iotistica.monitor.figures import Rates, figures
from iotistica.streams import KnownTopic

_NEVER = "no control process has collected figures of the broker yet"
_KB = 1024


def nothing() -> dict[str, Any]:
    """What is shown before anything was collected."""
    empty = figures({})
    return {
        "timestamp": None,
        "connected": False,
        "error": _NEVER,
        **empty,
        "rates": Rates().take(empty, 0.0),
        "topics": {},
    }


def status(now: Mapping[str, Any], topics: Sequence[KnownTopic]) -> dict[str, Any]:
    """Whether the monitor works."""
    return {
        "connected": now["connected"],
        "error": now["error"],
        "timestamp": now["timestamp"],
        "topic_count": len(topics),
        "message_count": sum(topic.messages for topic in topics),
    }


def rates(now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Messages a second that the broker sent and received, and KB a second in and out."""
    found = now["rates"]
    return (
        {"published": found["messagesSent"], "received": found["messagesReceived"]},
        {"inbound": _kb(found["bytesReceived"]), "outbound": _kb(found["bytesSent"])},
    )


def metrics(now: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of the broker."""
    message_rate, throughput = rates(now)
    return {
        "message_rate": {"current": message_rate},
        "throughput": {"current": throughput},
        "clients": now["clients"]["connected"],
        "subscriptions": now["subscriptions"],
        "retained_messages": now["retained"],
        "total_messages": {
            "sent": now["messages"]["sent"],
            "received": now["messages"]["received"],
        },
        "timestamp": now["timestamp"],
    }


def stats(now: Mapping[str, Any], topics: Sequence[KnownTopic]) -> dict[str, Any]:
    """Figures of the broker and of the topics."""
    message_rate, throughput = rates(now)
    found = status(now, topics)
    return {
        "connected": found["connected"],
        "topic_count": found["topic_count"],
        "message_count": found["message_count"],
        "kinds": dict(Counter(topic.kind for topic in topics)),
        "message_rate": message_rate,
        "throughput": throughput,
        "clients": now["clients"]["connected"],
        "subscriptions": now["subscriptions"],
        "retained_messages": now["retained"],
        "total_messages_sent": now["messages"]["sent"],
        "total_messages_received": now["messages"]["received"],
        "broker": now["broker"],
    }


def _kb(found: float | None) -> float | None:
    return None if found is None else round(found / _KB, 3)
