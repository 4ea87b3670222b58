"""Work that is done every so often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from iotistica import log
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do every so often, in every control process; see `store.turn` for one alone."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]

    async def repeat(self) -> None:
        """Do it until cancelled; a server that is away puts it off."""
        backoff = Backoff(first_s=min(self.every_s, 1.0), most_s=max(self.every_s, 30.0))
        while True:
            try:
                await self.work()
            except StoreUnavailable as error:
                _log.warning("chore put off", chore=self.name, error=str(error))
                await asyncio.sleep(backoff.next_s())
            else:
                backoff.reset()
                await asyncio.sleep(self.every_s)
