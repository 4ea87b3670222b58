"""What a process remembers of the database for a while: users, keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A bounded cache that loads what it lacks, once for all who ask at the same time.

    What is loaded while something is dropped is handed out and not remembered: it may have been
    read before the change that the drop tells of. None is never remembered.
    """

    def __init__(
        self,
        load: Callable[[K], Awaitable[V | None]],
        *,
        lifetime_s: float,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._lifetime_s = lifetime_s
        self._most = most
        self._clock = clock
        self._held: dict[K, tuple[float, V]] = {}
        self._loading: dict[K, asyncio.Task[V | None]] = {}
        self._drops = 0

    async def get(self, key: K) -> V | None:
        """The value, remembered or loaded. Raises what loading raises."""
        held = self._held.get(key)
        if held is not None and held[0] > self._clock():
            return held[1]
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda done: self._end(key, done))
        # One who gives up must not take the value from the others.
        return await asyncio.shield(task)

    def drop(self, matches: Callable[[K, V], bool]) -> None:
        """Forget what matches; nobody is given it who asks from now on."""
        self._drops += 1
        self._loading.clear()
        for key in [key for key, (_, value) in self._held.items() if matches(key, value)]:
            del self._held[key]

    async def _fetch(self, key: K) -> V | None:
        drops, until = self._drops, self._clock() + self._lifetime_s
        value = await self._load(key)
        if value is not None and drops == self._drops:
            self._held.pop(key, None)
            while len(self._held) >= self._most:
                del self._held[next(iter(self._held))]
            self._held[key] = (until, value)
        return value

    def _end(self, key: K, task: asyncio.Task[V | None]) -> None:
        if self._loading.get(key) is task:
            del self._loading[key]
        if not task.cancelled():
            task.exception()  # whoever asked was told
