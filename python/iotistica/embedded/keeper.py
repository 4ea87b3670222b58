"""Keeps services running: starts them in groups, restarts what dies, stops in reverse order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from iotistica.backoff import Backoff
from iotistica.embedded.process import Child
from iotistica.errors import IotisticaError

_LONG_ENOUGH_S = 30.0
"""A service that lived this long is well again: the next restart waits the shortest time."""


class Service(Protocol):
    """One process that can be started again."""

    child: Child

    async def start(self) -> None:
        """Start and wait until it is ready. Raises `StartFailed`."""

    async def stop(self) -> None:
        """Stop; safe to call when it does not run."""


class Keeper:
    """`report` gets a sentence for each death and failed restart; `restarted` follows success."""

    def __init__(self, report: Callable[[str], None], restarted: Callable[[], None]) -> None:
        self._report = report
        self._restarted = restarted
        self._groups: list[tuple[Service, ...]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.restarts: Counter[str] = Counter()

    async def start(self, *services: Service) -> None:
        """Start services side by side, and keep them running. Raises the first failure."""
        self._groups.append(services)
        started = (service.start() for service in services)
        for outcome in await asyncio.gather(*started, return_exceptions=True):
            if outcome is not None:
                raise outcome
        self._watchers += [asyncio.create_task(self._keep(service)) for service in services]

    async def stop(self) -> None:
        """Stop everything, the group that was started last at first."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for group in reversed(self._groups):
            await asyncio.gather(*(service.stop() for service in group))

    def kill(self) -> None:
        """End everything at once; a `stop` that waits then returns."""
        for group in self._groups:
            for service in group:
                service.child.kill()

    async def _keep(self, service: Service) -> None:
        name = service.child.command.name
        backoff = Backoff(first_s=0.2, most_s=30.0)
        while True:
            began = time.monotonic()
            status = await service.child.wait()
            if time.monotonic() - began > _LONG_ENOUGH_S:
                backoff.reset()
            self.restarts[name] += 1
            self._report(f"{name} ended with exit status {status}; starting it again")
            await self._start_again(service, backoff)

    async def _start_again(self, service: Service, backoff: Backoff) -> None:
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                await service.start()
            except IotisticaError as error:
                self._report(str(error))
            else:
                return self._restarted()
