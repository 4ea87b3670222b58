"""What the workers of one process share, and what they say about its health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from iotistica import log
from iotistica.breaker import Breaker
from iotistica.encoder import Encoder
from iotistica.ingestion.attendant import Attendant
from iotistica.ingestion.letter_alarm import LetterAlarm
from iotistica.ingestion.pressure import Pressure
from iotistica.ingestion.slots import Slots
from iotistica.ingestion.writer import Writer
from iotistica.keys import Feed
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.streams import Streams

_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Servers, limits and the state of one ingestion process."""

    settings: Settings
    streams: Streams
    writer: Writer
    breaker: Breaker
    """One for all that write to PostgreSQL, from streams and from the spool."""
    spool: Spool
    slots: Slots
    """Batches that may be encoded and committed at once, over all tenants."""
    express: Slots
    """A few more, for small batches of tenants that have nothing else under way."""
    pressure: Pressure
    pool_pct: Callable[[], float]
    """Share of the connections to PostgreSQL that are in use now."""
    stopping: asyncio.Event
    alarm: LetterAlarm
    attendant: Attendant
    """Knows how much is parked."""
    troubles: dict[str, str] = field(default_factory=dict)
    """What is away now, by its name: one sentence each, shown by `/ready`."""

    async def pause(self, seconds: float) -> None:
        """Wait, cut short when the process is told to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)

    def trouble(self, server: str, error: BaseException) -> None:
        """Say that a server is away; logged once, however many workers notice."""
        text = str(error) or type(error).__name__
        if server not in self.troubles:
            _LOG.warning("server is away, data waits", server=server, error=text)
        self.troubles[server] = text

    def well(self, server: str) -> None:
        """Say that a server answers."""
        if self.troubles.pop(server, None) is not None:
            _LOG.info("server is back", server=server)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One tenant's place in a process."""

    tenant: str
    consumer: str
    encoder: Encoder
    station: Station
    feed: Feed = Feed.LIVE
