"""Commits encoded batches: rows first, then the latest values."""

from __future__ import annotations

import time

from iotistica import metrics
from iotistica._native import Batch
from iotistica.store.pool import DuplicateKey
from iotistica.store.readings import ReadingStore


class Writer:
    """The one way of a batch into PostgreSQL; counts what became of its readings."""

    def __init__(self, store: ReadingStore) -> None:
        self._store = store

    async def probe(self) -> None:
        """Return if the table can be reached. Raises `StoreUnavailable`."""
        await self._store.probe()

    async def commit(self, batch: Batch, *, again: bool) -> dict[str, int] | None:
        """Commit the rows; `again` says that some may be there. Raises what asyncpg raises.

        Safe to repeat: rows that are there stay as they are, latest values only move forward.
        """
        if not batch.copy.rows:
            return None
        with metrics.STAGE_SECONDS.labels("commit").time():
            await self._commit_rows(batch, again=again)
        # A crash here leaves an older latest value until redelivery repeats this call.
        with metrics.STAGE_SECONDS.labels("latest").time():
            await self._store.upsert_latest(batch)
        if batch.oldest_received_ms:
            metrics.DWELL_SECONDS.observe(max(time.time() - batch.oldest_received_ms / 1000, 0))
        return None

    async def _commit_rows(self, batch: Batch, *, again: bool) -> None:
        rows = batch.copy.rows
        try:
            path, stored = "fresh", rows
            if not again:
                await self._store.commit_fresh(batch)
        except DuplicateKey:
            again = True
        if again:
            path, stored = "again", await self._store.commit_again(batch)
        metrics.WRITES.labels(path).inc()
        metrics.READINGS_STORED.inc(stored)
        metrics.READINGS_DUPLICATE.inc(rows - stored)
