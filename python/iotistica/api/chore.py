"""Work that is done every so often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from iotistica import log, metrics
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable

_log = log.get(__name__)


@dataclass(slots=True)
class Chore:
    """Something to do every so often, in every control process; see `store.turn` for one alone."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]
    most_pause_s: float = 30.0
    """Between attempts that fail, where `every_s` is not longer."""
    error: str | None = field(default=None, init=False)
    """The defect that it met at last; None once it was done again."""

    async def repeat(self) -> None:
        """Do it until cancelled. A server that is away puts it off, and so does a defect of ours,
        which costs this chore alone."""
        backoff = Backoff(
            first_s=min(self.every_s, 1.0), most_s=max(self.every_s, self.most_pause_s)
        )
        while True:
            try:
                await self.work()
            except StoreUnavailable as error:
                _log.warning("chore put off", chore=self.name, error=str(error))
                pause_s = backoff.next_s()
            except Exception as error:
                self.error = f"the chore {self.name!r} meets a defect: {error!r}"[:500]
                metrics.CHORE_DEFECTS.labels(self.name).inc()
                _log.exception("a chore met a defect", chore=self.name)
                pause_s = backoff.next_s()
            else:
                self.error = None
                backoff.reset()
                pause_s = self.every_s
            await asyncio.sleep(pause_s)
