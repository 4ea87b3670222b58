"""Places for batches that are encoded and committed: a semaphore whose size may change."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress


class Slots:
    """Who waits in `acquire` is served in turn, before anybody may `take` a free slot."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.on_free: Callable[[], None] = lambda: None
        """Called when a slot is there for `take`."""

    @property
    def size(self) -> int:
        """How many there are."""
        return self._size

    @property
    def taken(self) -> int:
        """How many are in use; more than `size` for a while after it shrank."""
        return self._taken

    @property
    def is_free(self) -> bool:
        """Whether one can be taken now."""
        return self._taken < self._size and not self._waiters

    def resize(self, size: int) -> None:
        """Change the number; slots in use stay until they are released."""
        self._size = size
        self._hand_on()

    def take(self) -> None:
        """Take a slot that is free."""
        if not self.is_free:
            raise RuntimeError("no slot is free")
        self._taken += 1

    async def acquire(self) -> None:
        """Wait for a slot."""
        if self.is_free:
            self.take()
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.release()
            else:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
                self._hand_on()
            raise

    def release(self) -> None:
        """Give a slot back."""
        self._taken -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiters and self._taken < self._size:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._taken += 1
                waiter.set_result(None)
        if self.is_free:
            self.on_free()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()
