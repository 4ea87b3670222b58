"""What waits for one client: bounded, whatever happens and however slowly it reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable


class Full(Exception):
    """The client is too slow for its events."""


class SendQueue:
    """Texts in their order, and marks of values that are rendered only when their turn comes.

    A value that changes while it waits keeps its place, so it takes room once.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: deque[bytes | Hashable] = deque()
        self._marked: set[Hashable] = set()
        self._bytes = 0
        self._some = asyncio.Event()

    def put(self, text: bytes) -> None:
        """Append a text. Raises `Full`."""
        # A single one may be larger than all that may wait.
        if self._bytes and self._bytes + len(text) > self._most_bytes:
            raise Full
        self._bytes += len(text)
        self._items.append(text)
        self._some.set()

    def mark(self, value: Hashable) -> None:
        """Append a value, unless it waits already."""
        if value not in self._marked:
            self._marked.add(value)
            self._items.append(value)
            self._some.set()

    async def next(self) -> bytes | Hashable:
        """The next text or value; waits for one."""
        while not self._items:
            self._some.clear()
            await self._some.wait()
        item = self._items.popleft()
        if isinstance(item, bytes):
            self._bytes -= len(item)
        else:
            self._marked.discard(item)
        return item
