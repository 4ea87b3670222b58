"""A connection that can change nothing, to look at a database with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from iotistica.errors import ConfigError
from iotistica.store.pool import Connection, unavailable

_TIMEOUT_S = 10.0
MissingPrivilege = asyncpg.InsufficientPrivilegeError


@asynccontextmanager
async def inspected(database_url: str) -> AsyncIterator[Connection]:
    """Connect; every transaction is read-only. Raises `ConfigError`, `StoreUnavailable`."""
    with unavailable("be looked at"):
        try:
            connection = await asyncpg.connect(
                database_url,
                timeout=_TIMEOUT_S,
                command_timeout=_TIMEOUT_S,
                # A pool in between may hand over another connection for each transaction.
                statement_cache_size=0,
            )
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise ConfigError(f"DATABASE_URL is not a PostgreSQL URL: {error}") from None
        try:
            async with connection.transaction(readonly=True):
                yield connection
        finally:
            connection.terminate()
