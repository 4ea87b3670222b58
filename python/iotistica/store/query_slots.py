"""Bounds for questions on readings: how many at a time, and how long each may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from iotistica.errors import BadRequest, Busy, TooSlow
from iotistica.store.pool import Connection, Pool, Row, is_too_slow, unavailable
from iotistica.store.read_session import read_session

_GRACE_S = 1.0
"""The server gives up first, so that its connection stays usable."""


@dataclass(frozen=True, slots=True)
class Reader:
    """A connection that reads one state of the database."""

    _connection: Connection
    _limit_s: float

    async def fetch(self, statement: str, *arguments: Any) -> list[Row]:
        """All rows."""
        # Longer than the pool lets statements take.
        return await self._connection.fetch(statement, *arguments, timeout=self._limit_s)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first column of the first row."""
        return await self._connection.fetchval(statement, *arguments, timeout=self._limit_s)


class QuerySlots:
    """Connections for questions: never all of the pool, so that heavy ones stop nobody else."""

    def __init__(
        self, pool: Pool, *, most: int = 4, limit_s: float = 15.0, demote_after_s: float = 0.2
    ) -> None:
        self._pool = pool
        self._slots = asyncio.Semaphore(most)
        self._most = most
        self._limit_s = limit_s
        self._demote_after_s = demote_after_s

    @asynccontextmanager
    async def take(self, what: str) -> AsyncIterator[Reader]:
        """A connection for at most the limit of time.

        Raises `Busy` where none gets free in time, `TooSlow` where the limit ends the question,
        `BadRequest` where its numbers overflow, `StoreUnavailable`.
        """
        try:
            await asyncio.wait_for(self._slots.acquire(), self._limit_s)
        except TimeoutError:
            raise Busy(
                f"{self._most} queries are under way and none ended within {self._limit_s:g} s; "
                "IOTISTICA_QUERY_MAX_AT_ONCE says how many there may be"
            ) from None
        try:
            with unavailable(what):
                async with self._open() as reader:
                    yield reader
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Reader]:
        async with read_session(
            self._pool, limit_s=self._limit_s, demote_after_s=self._demote_after_s
        ) as connection:
            try:
                async with asyncio.timeout(self._limit_s + _GRACE_S):
                    yield Reader(connection, self._limit_s + _GRACE_S)
            except asyncpg.NumericValueOutOfRangeError:
                raise BadRequest(
                    "values of this range are so large that they overflow where they are put "
                    "together; ask for single readings, or for another range"
                ) from None
            except Exception as error:
                if not isinstance(error, TimeoutError) and not is_too_slow(error):
                    raise
                raise TooSlow(
                    f"the query took longer than {self._limit_s:g} s (IOTISTICA_QUERY_TIMEOUT_S); "
                    "ask for a shorter range, fewer metrics or agents, or longer steps"
                ) from error
