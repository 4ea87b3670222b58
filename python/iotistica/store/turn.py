"""Things that one process at a time does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from iotistica.store.pool import Connection, Pool

_CLASS = 0x74757266
_TRY = "SELECT pg_try_advisory_xact_lock($1, hashtext($2))"


@asynccontextmanager
async def turn(pool: Pool, name: str) -> AsyncIterator[Connection | None]:
    """A transaction that one process at a time has under this name; None where another has it.

    The lock is the transaction's, so it ends with a process that is killed, and pgbouncer keeps it.
    """
    async with pool.acquire() as connection, connection.transaction():
        yield connection if await connection.fetchval(_TRY, _CLASS, name) else None
