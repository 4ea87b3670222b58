"""Writes that are kept only where somebody says so when they are seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from iotistica.store.pool import Connection, Pool
from iotistica.store.readings import ReadingStore


@dataclass(slots=True)
class Trial:
    """A store all of whose work is one transaction."""

    store: ReadingStore
    kept: bool = False
    """To be set where the work is to be committed."""


@asynccontextmanager
async def trial(pool: Pool) -> AsyncIterator[Trial]:
    """Commit what is kept, else roll everything back, partitions that were made included.

    Raises what asyncpg raises.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        one = Trial(ReadingStore(cast(Pool, _Held(connection))))
        try:
            yield one
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.commit() if one.kept else transaction.rollback())


@asynccontextmanager
async def rehearsal(pool: Pool) -> AsyncIterator[Pool]:
    """In the place of a pool: all work is one transaction, which is rolled back.

    Raises what asyncpg raises.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield cast(Pool, _Held(connection))
        finally:
            await transaction.rollback()


class _Held:
    """In the place of a pool: all statements on one connection, so in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.fetch = connection.fetch
        self.fetchrow = connection.fetchrow
        self.fetchval = connection.fetchval

    def acquire(self, *, timeout: float | None = None) -> AbstractAsyncContextManager[Any]:
        return nullcontext(self._connection)
