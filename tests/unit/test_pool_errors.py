"""What errors of PostgreSQL mean for the data in hand."""

from __future__ import annotations

import asyncpg
import pytest

from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.pool import (
    is_outage,
    is_refusal,
    is_too_slow,
    is_transient,
    open_pool,
    unavailable,
)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.CharacterNotInRepertoireError("invalid byte sequence"),
        asyncpg.BadCopyFileFormatError("unexpected EOF"),
        asyncpg.ProtocolViolationError("insufficient data left in message"),
        asyncpg.NotNullViolationError("null value"),
        asyncpg.ProgramLimitExceededError("index row size"),
    ],
)
def test_refusals_blame_the_data(error: Exception) -> None:
    assert is_refusal(error)
    assert not is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.TooManyConnectionsError("sorry, too many clients already"),
        asyncpg.DiskFullError("could not extend file"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.ReadOnlySQLTransactionError("cannot execute COPY in a read-only transaction"),
        asyncpg.UndefinedTableError("relation does not exist"),
        asyncpg.InvalidPasswordError("password authentication failed"),
        asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionRefusedError(),
        TimeoutError(),
    ],
)
def test_whatever_somebody_can_mend_is_transient(error: Exception) -> None:
    assert is_transient(error)
    assert not is_refusal(error)


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (asyncpg.TooManyConnectionsError("sorry, too many clients already"), True),
        (asyncpg.AdminShutdownError("terminating connection"), True),
        (asyncpg.CannotConnectNowError("the database system is starting up"), True),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute COPY"), True),
        (asyncpg.DiskFullError("could not extend file"), True),
        (asyncpg.ObjectNotInPrerequisiteStateError("not accepting connections"), True),
        (ConnectionRefusedError(), True),
        # A row may be behind each of these.
        (asyncpg.CrashShutdownError("another server process exited abnormally"), False),
        (asyncpg.ConnectionDoesNotExistError("connection was closed"), False),
        (asyncpg.QueryCanceledError("statement timeout"), False),
        (asyncpg.DeadlockDetectedError("deadlock detected"), False),
        (asyncpg.InternalServerError("invalid memory alloc request size"), False),
        (asyncpg.NotNullViolationError("null value"), False),
        (TimeoutError(), False),
    ],
)
def test_an_outage_says_nothing_about_the_data(error: Exception, *, outage: bool) -> None:
    assert is_outage(error) is outage


def test_a_defect_of_ours_is_neither() -> None:
    assert not is_transient(TypeError())
    assert not is_refusal(TypeError())


def test_only_the_servers_own_time_limit_is_too_slow() -> None:
    assert is_too_slow(asyncpg.QueryCanceledError("statement timeout"))
    assert not is_too_slow(TimeoutError())


def test_transient_errors_become_one_sentence() -> None:
    with pytest.raises(StoreUnavailable, match="could not list: Conn"), unavailable("list"):
        raise ConnectionResetError
    with pytest.raises(TypeError), unavailable("list"):
        raise TypeError


async def test_malformed_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL is not a PostgreSQL URL"):
        await open_pool(Settings(database_url="mysql://127.0.0.1/x"), application_name="test")


async def test_missing_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL is not set"):
        await open_pool(Settings(database_url=None), application_name="test")
