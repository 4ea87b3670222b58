"""Applies `migrations/NNNN_name[.profile].sql` once each, in order, under an advisory lock."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import asyncpg

from iotistica.errors import ConfigError
from iotistica.store import timescale
from iotistica.store.pool import Connection, unavailable

_FILE = re.compile(r"(?P<version>\d{4})_\w+(\.(?P<profile>timescale|plain))?\.sql")
_NO_TRANSACTION = "-- no-transaction"
_LOCK = 0x696F7469  # "ioti"
_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_LOCK_POLL_S = 0.1
_CONNECT_TIMEOUT_S = 10.0

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
_RECORD = "INSERT INTO schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"

# The loader library defines this setting when it was preloaded; without that, creating the
# extension would end the connection.
PRELOADED = """
SELECT current_setting('timescaledb.max_background_workers', true) IS NOT NULL
   AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')
"""
_LICENSE = "SELECT current_setting('timescaledb.license', true)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of SQL; `profile` is empty when it serves every database."""

    version: int
    name: str
    profile: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def in_transaction(self) -> bool:
        """Whether the whole file is one transaction; else each statement stands alone."""
        return not self.sql.startswith(_NO_TRANSACTION)


def available() -> list[Migration]:
    """Every migration of this package, by version. Raises `ConfigError` for a stray name."""
    found = []
    for file in resources.files("iotistica").joinpath("migrations").iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ConfigError(f"migration {file.name} is not named NNNN_name[.profile].sql")
        name, text = file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")
        found.append(Migration(int(match["version"]), name, match["profile"] or "", text))
    return sorted(found, key=lambda migration: (migration.version, migration.profile))


def wanted(profile: str) -> list[Migration]:
    """What a database of a profile should have, by version."""
    return [migration for migration in available() if migration.profile in ("", profile)]


async def migrate(database_url: str) -> list[str]:
    """Bring the database up to date; the names of what was applied now.

    Safe to call from any number of processes at once. Raises `ConfigError` for a database that
    does not fit, `StoreUnavailable` for one that is away.
    """
    with unavailable("migrate"):
        try:
            connection = await asyncpg.connect(database_url, timeout=_CONNECT_TIMEOUT_S)
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise ConfigError(f"DATABASE_URL is not a PostgreSQL URL: {error}") from None
        try:
            # A session that waits inside the server would hold up CREATE INDEX CONCURRENTLY.
            while not await connection.fetchval(_TRY_LOCK, _LOCK):  # noqa: ASYNC110
                await asyncio.sleep(_LOCK_POLL_S)
            return await _apply_missing(connection)
        finally:
            await connection.close()  # and with it the lock


async def _apply_missing(connection: Connection) -> list[str]:
    await connection.execute(_TABLE)
    rows = await connection.fetch("SELECT version, name, checksum FROM schema_migrations")
    applied = {row["version"]: row for row in rows}
    profile = profile_of(applied)
    if profile is None:
        profile = await _probe(connection)
    elif profile == "timescale":
        (await timescale.verdict(connection)).enforce()
    migrations = wanted(profile)
    check(migrations, applied)
    missing = [migration for migration in migrations if migration.version not in applied]
    for migration in missing:
        await _apply(connection, migration)
    return [migration.name for migration in missing]


def profile_of(applied: dict[int, Any]) -> str | None:
    """A database keeps the profile that it began with, whatever is installed later."""
    names = [row["name"] for row in applied.values()]
    return next((name.rpartition(".")[2] for name in names if "." in name), None)


async def _probe(connection: Connection) -> str:
    """`timescale` where the full extension can be used, else `plain`.

    Builds under the Apache licence alone lack compression and policies.
    """
    if not await connection.fetchval(PRELOADED):
        return "plain"
    try:
        async with connection.transaction():
            await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            license_name = await connection.fetchval(_LICENSE)
            if license_name == "timescale":
                # A version that is refused is not left behind.
                (await timescale.verdict(connection)).enforce()
    except asyncpg.InsufficientPrivilegeError:
        return "plain"
    return "timescale" if license_name == "timescale" else "plain"


def check(migrations: list[Migration], applied: dict[int, Any]) -> None:
    """Raises `ConfigError` where what was applied is not what this release has."""
    known = {migration.version: migration for migration in migrations}
    for version, row in sorted(applied.items()):
        migration = known.get(version)
        if migration is None:
            raise ConfigError(
                f"the database has migration {row['name']}, which this iotistica does not know; "
                "it was used by a newer release"
            )
        if migration.checksum != row["checksum"]:
            raise ConfigError(
                f"migration {migration.name} was changed after it was applied to this database; "
                "restore the file and add a new migration instead"
            )


async def _apply(connection: Connection, migration: Migration) -> None:
    record = (_RECORD, migration.version, migration.name, migration.checksum)
    if not migration.in_transaction:
        # Each statement stands alone, so such a file must be safe to run again from its start.
        for statement in filter(str.strip, re.split(r";[ \t]*\n", migration.sql)):
            await connection.execute(statement)
        await connection.execute(*record)
        return
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(*record)
