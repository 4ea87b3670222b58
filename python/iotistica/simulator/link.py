"""How a simulated agent reaches the broker."""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """An MQTT session that publishes with QoS 1."""

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Return when the broker has acknowledged. Raises `StoreUnavailable`."""
