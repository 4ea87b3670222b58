"""Runs what the `ReadingStore` would do in a transaction that is never committed."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

from iotistica.store.pool import Connection, Pool
from iotistica.store.readings import ReadingStore, Rows


async def rehearse_again(pool: Pool, rows: Rows) -> int:
    """How many rows `commit_again` would insert now. Raises what it would raise.

    Not even a partition is left behind.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            return await ReadingStore(cast(Pool, _Held(connection))).commit_again(rows)
        finally:
            await transaction.rollback()


class _Held:
    """In the place of a pool: all statements on one connection, so in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.fetchval = connection.fetchval

    def acquire(self) -> AbstractAsyncContextManager[Any]:
        return nullcontext(self._connection)
