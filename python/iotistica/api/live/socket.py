"""A WebSocket as a session sees it, whichever server carries it."""

from __future__ import annotations

from typing import Protocol

NORMAL, GOING_AWAY, POLICY, TRY_LATER = 1000, 1001, 1008, 1013
"""Codes of a close (RFC 6455 section 7.4.1, and its registry)."""


class Gone(Exception):
    """Nobody is at the other end any more."""


class Socket(Protocol):
    """An accepted connection. Pings, pongs and the size of messages are the server's business."""

    async def receive(self) -> str | bytes | None:
        """The next message: text, or binary; None when the connection has ended."""

    async def send(self, text: bytes) -> None:
        """Send UTF-8 text; returns when the next one may be sent without filling memory.

        Raises `Gone`.
        """

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye and end; `receive` then returns None."""

    def abort(self) -> None:
        """End without a word, where the other end takes none."""
