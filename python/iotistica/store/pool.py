"""The asyncpg pool, and what its errors mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg

from iotistica.errors import ConfigError, DatabaseUnavailable
from iotistica.settings import Settings

# Generic in the stubs only, hence the quotes.
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

Row: TypeAlias = asyncpg.Record
"""One row of an answer, by the names of its columns."""

DuplicateKey = asyncpg.UniqueViolationError
MissingReference = asyncpg.ForeignKeyViolationError
BrokenRule = asyncpg.CheckViolationError

# SQLSTATE classes that blame the data: cardinality, data exception, integrity, a view's check,
# program limit (an index row too large), a trigger that raises; and a malformed COPY stream, which
# stands among the connection errors.
_REFUSAL_CLASSES = ("21", "22", "23", "44", "54", "P0")
_PROTOCOL_VIOLATION = "08P01"

# What no data can bring about: read-only, no login, no such database, no room, no connection, and
# an administrator who ends sessions. A crash is not among them: a row may be what crashes it.
_OUTAGE_CLASSES = ("25", "28", "3D", "53")
_OUTAGES = ("55000", "57P01", "57P03", "57P04", "57P05")


def is_refusal(error: BaseException) -> bool:
    """Whether PostgreSQL refuses this data and always will."""
    if not isinstance(error, asyncpg.PostgresError):
        return False
    state = error.sqlstate or ""
    return state == _PROTOCOL_VIOLATION or state[:2] in _REFUSAL_CLASSES


def is_outage(error: BaseException) -> bool:
    """Whether the server is at fault whatever the data: however often it happens, it says nothing
    about the batch that met it."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state in _OUTAGES or state[:2] in _OUTAGE_CLASSES
    return isinstance(error, ConnectionRefusedError)


def is_too_slow(error: BaseException) -> bool:
    """Whether the server gave a statement up; a server that hangs or is away is not meant."""
    return isinstance(error, asyncpg.QueryCanceledError)


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may pass later: the server's state is at fault, not the data.

    A missing table or a wrong password counts too: somebody can mend it, and data must wait.
    """
    if isinstance(error, asyncpg.PostgresError):
        return not is_refusal(error)
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Connections of a pool."""

    open: int
    idle: int
    most: int

    @property
    def active(self) -> int:
        """Connections in use."""
        return self.open - self.idle

    @property
    def percent(self) -> float:
        """Share of the most there may be that is in use."""
        return 100 * self.active / self.most


def use_of(pool: Pool) -> PoolUse:
    """How much of a pool is in use now."""
    return PoolUse(pool.get_size(), pool.get_idle_size(), pool.get_max_size())


def affected(status: str) -> int:
    """Rows of a command tag such as `INSERT 0 42`."""
    return int(status.rpartition(" ")[2])


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Turn transient errors of asyncpg into `DatabaseUnavailable`."""
    try:
        yield
    except Exception as error:
        if not is_transient(error):
            raise
        text = str(error) or type(error).__name__
        raise DatabaseUnavailable(f"PostgreSQL could not {what}: {text}") from error


@asynccontextmanager
async def held(pool: Pool, *, limit_s: float) -> AsyncIterator[Connection]:
    """A connection for at most so long, whatever its server does; then it is given up.

    Raises `TimeoutError`. asyncpg's own time limits leave two gaps: a COPY that fills the socket of
    a server that hangs, and the cancellation that it waits for before it takes a connection back.
    """
    async with pool.acquire(timeout=limit_s) as connection:
        try:
            async with asyncio.timeout(limit_s):
                yield connection
        except TimeoutError:
            connection.terminate()
            raise


async def open_pool(settings: Settings, *, application_name: str) -> Pool:
    """Pool of `database_pool_size` connections, opened as they are needed.

    Raises `ConfigError` for a malformed URL; a server that is away shows at first use.
    """
    # It would log a traceback for each attempt to reconnect; our own loops say so once.
    logging.getLogger("asyncpg.pool").setLevel(logging.CRITICAL)
    # asyncpg would look at it at the first connection only.
    if urlsplit(url := settings.require("database_url")).scheme not in ("postgresql", "postgres"):
        raise ConfigError("DATABASE_URL is not a PostgreSQL URL: it must begin with postgresql://")
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=settings.database_pool_size,
        timeout=settings.database_connect_timeout_s,
        **_session(settings, application_name),
    )


def _session(settings: Settings, application_name: str) -> dict[str, Any]:
    """Time limits of a session: the server's, and a later one here for a server that hangs."""
    limit_s = settings.database_statement_timeout_s
    session: dict[str, Any] = {
        "command_timeout": limit_s + 5,
        "server_settings": {"application_name": application_name},
    }
    if settings.database_pgbouncer:
        # Transaction pooling: a statement prepared now may run on another server connection,
        # and pgbouncer refuses start-up parameters that it does not know.
        session["statement_cache_size"] = 0
    else:
        session["server_settings"]["statement_timeout"] = str(int(limit_s * 1000))
    return session
