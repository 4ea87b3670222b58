"""Topics as a tree. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from iotistica.instants import iso_ms


class Counted(Protocol):
    """What is known of a topic."""

    @property
    def topic(self) -> str:
        """Its name."""

    @property
    def messages(self) -> int:
        """How many came."""

    @property
    def bytes(self) -> int:
        """Of their payloads."""

    @property
    def last_seen_ms(self) -> int:
        """When the last came, epoch milliseconds."""


@dataclass(slots=True)
class _Node:
    topics: int = 0
    messages: int = 0
    bytes: int = 0
    last_seen_ms: int = 0
    own: int = 0
    """Messages on the topic itself, not below it."""
    children: dict[str, _Node] = field(default_factory=dict)

    def count(self, topic: Counted) -> None:
        self.topics += 1
        self.messages += topic.messages
        self.bytes += topic.bytes
        self.last_seen_ms = max(self.last_seen_ms, topic.last_seen_ms)


def grow(topics: Iterable[Counted], *, under: str, depth: int) -> dict[str, Any]:
    """The tree below the topic `under` (empty: all), so many levels deep.

    Each node counts itself and all that is below it, also what is too deep to be shown.
    """
    root = _Node()
    skipped = under.split("/") if under else []
    for topic in topics:
        levels = topic.topic.split("/")
        if levels[: len(skipped)] != skipped:
            continue
        node = root
        node.count(topic)
        below = levels[len(skipped) :]
        for level in below[:depth]:
            node = node.children.setdefault(level, _Node())
            node.count(topic)
        if len(below) <= depth:
            node.own += topic.messages
    return _shown(root, skipped[-1] if skipped else "", under)


def _shown(node: _Node, name: str, topic: str) -> dict[str, Any]:
    return {
        "name": name,
        "topic": topic,
        "topics": node.topics,
        "messages": node.messages,
        "ownMessages": node.own,
        "bytes": node.bytes,
        "lastSeen": iso_ms(node.last_seen_ms) if node.topics else None,
        "children": [
            _shown(child, level, f"{topic}/{level}" if topic else level)
            for level, child in sorted(node.children.items())
        ],
    }
