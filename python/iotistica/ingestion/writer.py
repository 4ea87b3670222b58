"""Commits encoded batches: rows first, then the latest values.

New rows go by one COPY, which a single key that is there already makes fail. So there are four
ways. A small batch is always merged, which costs no more. Others are copied, until one fails. Then,
for a while, the table is asked for one key of each message; messages that it knows are merged while
the others are copied. Where that fails as well, because a message is there in part, all are merged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from iotistica import metrics
from iotistica._native import Batch
from iotistica.store.pool import DuplicateKey
from iotistica.store.readings import ReadingStore

# Up to here a merge costs about as much as a COPY: 0.5 ms for one row, 1.3 to 1.2 for 60.
_SMALL_ROWS = 100
# A key that is asked for costs as much as two rows that are copied, and so does a merged row.
_ROWS_PER_HEAD = 4
# TimescaleDB looks for a key in every chunk of the time asked about.
_MOST_DAYS = 7
# Duplicates come in swarms, after a crash or an outage. To ask costs 3 % of a batch without any,
# to fail costs half of a batch and leaves dead rows behind.
_DOUBT_S = 60.0


class Writer:
    """The one way of a batch into PostgreSQL; counts what became of its readings."""

    def __init__(self, store: ReadingStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._doubt_until = 0.0

    async def probe(self) -> None:
        """Return if the table can be reached. Raises `StoreUnavailable`."""
        await self._store.probe()

    async def commit(self, batch: Batch, *, again: bool) -> dict[str, int] | None:
        """Commit the rows; `again` says that some may be there. Raises what asyncpg raises.

        Returns the rows that were inserted by agent, None if it was all of them. Safe to repeat:
        rows that are there stay as they are, latest values only move forward.
        """
        rows = batch.copy.rows
        if not rows:
            return None
        with metrics.STAGE_SECONDS.labels("commit").time():
            inserted = await self._commit_rows(batch, again=again)
        stored = rows if inserted is None else sum(inserted.values())
        metrics.READINGS_STORED.inc(stored)
        metrics.READINGS_DUPLICATE.inc(rows - stored)
        # A crash here leaves an older latest value until redelivery repeats this call.
        with metrics.STAGE_SECONDS.labels("latest").time():
            await self._store.upsert_latest(batch)
        if batch.oldest_received_ms:
            metrics.DWELL_SECONDS.observe(max(time.time() - batch.oldest_received_ms / 1000, 0))
        return inserted if stored < rows else None

    async def _commit_rows(self, batch: Batch, *, again: bool) -> dict[str, int] | None:
        if batch.copy.rows <= _SMALL_ROWS:
            return await self._merge(batch)
        if again or self._clock() < self._doubt_until:
            return await self._sort_out(batch, failed=False)
        try:
            await self._copy(batch)
        except DuplicateKey:
            self._doubt()
            return await self._sort_out(batch, failed=True)
        return None

    async def _sort_out(self, batch: Batch, *, failed: bool) -> dict[str, int] | None:
        """`failed`: to copy all of it has been tried."""
        heads, days = batch.heads(), batch.days
        if heads.rows * _ROWS_PER_HEAD > batch.copy.rows or days[-1] - days[0] >= _MOST_DAYS:
            return await self._merge(batch)
        found = await self._store.present(heads, days)
        try:
            if found:
                self._doubt()
                return await self._split(batch, found)
            if not failed:
                await self._copy(batch)
                return None
        except DuplicateKey:
            pass
        return await self._merge(batch)

    async def _copy(self, batch: Batch) -> None:
        await self._store.commit_fresh(batch)
        metrics.WRITES.labels("fresh").inc()

    async def _split(self, batch: Batch, found: list[int]) -> dict[str, int]:
        clean, suspect = batch.split(found)
        merged = await self._store.commit_split(batch, clean, suspect)
        metrics.WRITES.labels("split").inc()
        return dict(Counter(clean.agents()) + Counter(merged))

    async def _merge(self, batch: Batch) -> dict[str, int]:
        inserted = await self._store.commit_again(batch)
        metrics.WRITES.labels("merged").inc()
        return inserted

    def _doubt(self) -> None:
        self._doubt_until = self._clock() + _DOUBT_S
