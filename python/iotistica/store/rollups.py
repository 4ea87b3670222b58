"""Keeps the rollups of plain PostgreSQL up to date; with TimescaleDB policies do it.

See migration 0031: ingestion marks the hours of agents that get rows, and a marked hour is answered
from `readings`. Here hours are closed, and the buckets of closed hours are made.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta

from iotistica.store.pool import Pool, unavailable
from iotistica.store.turn import turn

GRACE = timedelta(minutes=5)
"""An hour is closed so long after its end: then most of its rows are there, and few come later."""
_AT_ONCE = 50
_BUDGET_S = 20.0
_POLL_S = 0.05

_HAS_MARKS = "SELECT to_regclass('rollup_marks') IS NOT NULL"
_CLOSE = """
UPDATE rollup_state SET closed_before = date_bin('1 hour', $1::timestamptz, 'epoch')
WHERE closed_before < date_bin('1 hour', $1::timestamptz, 'epoch')
"""
# Who may still go by what was open before: `rollup_enter` takes the lock.
_WRITERS = """
SELECT array_agg(virtualtransaction) FROM pg_locks
WHERE locktype = 'advisory' AND classid = 0 AND objid = x'726f6c6c'::integer::oid AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_MARKED = """
SELECT DISTINCT hour, agent_uuid FROM rollup_marks
WHERE hour < (SELECT closed_before FROM rollup_state)
ORDER BY hour DESC, agent_uuid LIMIT $1
"""
_REFRESH = "SELECT rollup_refresh($1, $2)"
_WAITING = """
SELECT count(DISTINCT (hour, agent_uuid)) FROM rollup_marks
WHERE hour < (SELECT closed_before FROM rollup_state)
"""


class Rollups:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._has_marks: bool | None = None

    async def refresh(self, now: datetime) -> int:
        """Close what is over, and make buckets for a while, newest hours first; how many hours.

        By one process at a time: for another there is nothing to do.
        """
        with unavailable("refresh rollups"):
            if self._has_marks is None:
                self._has_marks = await self._pool.fetchval(_HAS_MARKS)
            if not self._has_marks:
                return 0
            await self._pool.execute(_CLOSE, now - GRACE)
            await self._writers_end()
            done, until = 0, time.monotonic() + _BUDGET_S
            while time.monotonic() < until and (some := await self._refresh_some()):
                done += some
            return done

    async def waiting(self) -> int:
        """Closed hours of agents whose buckets are to be made."""
        with unavailable("look at rollups"):
            return int(await self._pool.fetchval(_WAITING))

    async def _writers_end(self) -> None:
        """Wait for those who write now; who comes later sees what is closed."""
        before = set(await self._pool.fetchval(_WRITERS) or ())
        while before & set(await self._pool.fetchval(_WRITERS) or ()):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def _refresh_some(self) -> int:
        async with turn(self._pool, "rollups") as connection:
            if connection is None:
                return 0
            marked = await connection.fetch(_MARKED, _AT_ONCE)
            for hour, agent in marked:
                await connection.execute(_REFRESH, agent, hour)
            return len(marked)
