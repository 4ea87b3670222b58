"""Where the entries of a delivery come from, and how each place lets go of them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from iotistica import metrics
from iotistica.errors import StoreUnavailable
from iotistica.ingestion import tally
from iotistica.ingestion.tally import Book
from iotistica.keys import Feed
from iotistica.spool import Batch, Kind
from iotistica.streams import Entry, Settlement

if TYPE_CHECKING:
    from iotistica.ingestion.station import Lane

KINDS = {Feed.LIVE: Kind.LIVE, Feed.BACKFILL: Kind.BACKFILL}
_GATHER_S = 0.25
"""Nobody waits for rows now: meanwhile more gathers in the stream, and few segments are replayed
faster than many.
"""
FEEDS = {kind: feed for feed, kind in KINDS.items()}


class Origin(Protocol):
    """What a delivery asks of the place that holds its entries meanwhile."""

    diverts: bool
    """Whether old messages may go on in the backfill stream."""

    async def settle(self, books: Mapping[bytes, Book]) -> None:
        """Let go of entries that are done. Raises `StoreUnavailable`; may be repeated."""

    async def put_away(self, entries: Sequence[Entry], *, again: bool) -> Settlement | None:
        """Make entries safe on disk; what settles them then. None: they wait where they are.

        Raises `SpoolFull`.
        """

    async def settle_as(self, settlement: Settlement) -> list[bytes]:
        """Let go of entries that are on disk; ids that were gone. Raises `StoreUnavailable`."""

    async def hold(self, ids: Sequence[bytes]) -> None:
        """Keep others from taking entries that are in hand."""


class FromStream:
    """Entries that a consumer group gave to us."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._station = lane.station
        self.diverts = lane.feed is Feed.LIVE

    async def settle(self, books: Mapping[bytes, Book]) -> None:
        """Acknowledge and delete them."""
        while books:
            gone = set(await self.settle_as(tally.settlement(books)))
            if not gone:
                return
            # Settled by an earlier call whose reply was lost, or by another consumer that claimed
            # them while we stood still; then nothing was done, and the others are still ours.
            metrics.SETTLED_BEFORE.inc(len(gone))
            books = {entry_id: book for entry_id, book in books.items() if entry_id not in gone}

    async def settle_as(self, settlement: Settlement) -> list[bytes]:
        """One call; ids that were settled before, in which case nothing was done."""
        lane = self._lane
        return await self._station.streams.settle(lane.tenant, settlement, feed=lane.feed)

    async def put_away(self, entries: Sequence[Entry], *, again: bool) -> Settlement | None:
        """Write them to the disk spool."""
        await self._station.pause(_GATHER_S)
        counts = tally.spooled(entries)
        batch = Batch(
            name=uuid.uuid4().hex,
            tenant=self._lane.tenant,
            kind=KINDS[self._lane.feed],
            entries=entries,
            messages=sum(counts.values()),
            again=again,
            counts=counts,
        )
        await self._station.spool.put(batch)
        return Settlement(ids=[entry[0] for entry in entries], spooled=batch.name, counts=counts)

    async def hold(self, ids: Sequence[bytes]) -> None:
        """Reset their idle time."""
        lane = self._lane
        with suppress(StoreUnavailable):
            await self._station.streams.hold(lane.tenant, lane.consumer, ids, feed=lane.feed)


class FromSpool:
    """Entries of one batch of the disk spool, which is done when all of them are."""

    diverts = False

    def __init__(self, lane: Lane, batch: Batch) -> None:
        self._lane = lane
        self._batch = batch
        self._books: dict[bytes, Book] = {}
        self.done = False
        """Whether the batch may be removed."""

    async def settle(self, books: Mapping[bytes, Book]) -> None:
        """Remember what is done, and write what all of it leaves behind with the last of them."""
        self._books |= books
        if len(self._books) < len(self._batch.entries):
            return
        found = tally.settlement(self._books)
        await self.settle_as(
            Settlement(
                ids=found.ids,
                letters=found.letters,
                parked=found.parked,
                counts=found.counts,
                sequences=found.sequences,
                unspooled=self._batch.name,
                unspooled_counts={name: -number for name, number in self._batch.counts.items()},
            )
        )
        self.done = True

    async def settle_as(self, settlement: Settlement) -> list[bytes]:
        """One call; it counts once, however often it is made."""
        lane = self._lane
        return await lane.station.streams.settle(lane.tenant, settlement, feed=lane.feed)

    async def put_away(self, entries: Sequence[Entry], *, again: bool) -> Settlement | None:
        """They are on disk."""
        return None

    async def hold(self, ids: Sequence[bytes]) -> None:
        """Nobody else can take them."""
