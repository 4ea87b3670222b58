"""What `migrate` has done to a database, and what it would do. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import asyncpg

from iotistica.store import migrate, timescale
from iotistica.store.inspection import inspected
from iotistica.store.migrate import Migration
from iotistica.store.pool import Connection, Row
from iotistica.store.timescale import Fitness, Verdict

_HAS_TABLE = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = "SELECT version, name, checksum, applied_at FROM schema_migrations"

# Whether this user could create the extension, and which license is set where one is.
_CHOICE = """
SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') AS is_installed,
       (SELECT bool_or(rolsuper) FROM pg_roles WHERE rolname = current_user)
       OR EXISTS (
           SELECT FROM pg_available_extension_versions AS v
           JOIN pg_available_extensions AS e ON e.name = v.name AND e.default_version = v.version
           WHERE v.name = 'timescaledb'
             AND (NOT v.superuser
                  OR v.trusted AND has_database_privilege(current_database(), 'CREATE'))
       ) AS may_create,
       coalesce(current_setting('timescaledb.license', true), 'timescale') AS license
"""


class State(StrEnum):
    """How a migration stands."""

    APPLIED = "applied"
    MISSING = "missing"
    CHANGED = "changed"
    """Its file is not the one that was applied."""
    UNKNOWN = "unknown"
    """It was applied by a newer release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One migration of this release, or of the database."""

    version: int
    name: str
    state: State
    applied_at: datetime | None = None
    in_transaction: bool | None = None
    """None where the file is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every migration that this database has or should have, by version."""

    profile: str
    """`timescale` or `plain`."""
    is_decided: bool
    """False where the profile is the one that this user would choose now."""
    timescaledb: Verdict | None
    """None with the plain profile."""
    entries: tuple[Entry, ...]

    @property
    def missing(self) -> list[Entry]:
        """What `migrate` would apply, in its order."""
        return [entry for entry in self.entries if entry.state is State.MISSING]

    @property
    def is_well(self) -> bool:
        """Whether nothing is missing or wrong."""
        refused = self.timescaledb is not None and self.timescaledb.fitness is Fitness.REFUSED
        return not refused and all(entry.state is State.APPLIED for entry in self.entries)


async def report(database_url: str) -> Report:
    """Look at a database. Raises `ConfigError`, `StoreUnavailable`."""
    async with inspected(database_url) as connection:
        return await report_of(connection)


async def plan(database_url: str) -> Report:
    """The same; raises `ConfigError` where `migrate` would refuse the database."""
    async with inspected(database_url) as connection:
        found = await report_of(connection)
        applied = {row["version"]: row for row in await _applied(connection)}
    migrate.check(migrate.wanted(found.profile), applied)
    if found.timescaledb is not None:
        found.timescaledb.enforce()
    return found


async def report_of(connection: Connection) -> Report:
    """Look by a connection."""
    applied = {row["version"]: row for row in await _applied(connection)}
    decided = migrate.profile_of(applied)
    profile = decided or await _choice(connection)
    known = {one.version: one for one in migrate.wanted(profile)}
    return Report(
        profile=profile,
        is_decided=decided is not None,
        timescaledb=await timescale.verdict(connection) if profile == "timescale" else None,
        entries=tuple(
            _entry(version, known.get(version), applied.get(version))
            for version in sorted(known.keys() | applied.keys())
        ),
    )


async def _applied(connection: Connection) -> list[Row]:
    if not await connection.fetchval(_HAS_TABLE):
        return []
    return await connection.fetch(_APPLIED)


async def _choice(connection: Connection) -> str:
    """What `migrate` would choose, were it run by this user."""
    if not await connection.fetchval(migrate.PRELOADED):
        return "plain"
    found: asyncpg.Record = (await connection.fetch(_CHOICE))[0]
    may_use = found["is_installed"] or found["may_create"]
    return "timescale" if may_use and found["license"] == "timescale" else "plain"


def _entry(version: int, known: Migration | None, applied: Row | None) -> Entry:
    if known is None:
        name, state = (applied["name"] if applied else str(version)), State.UNKNOWN
    elif applied is None:
        name, state = known.name, State.MISSING
    else:
        name = applied["name"]
        state = State.APPLIED if applied["checksum"] == known.checksum else State.CHANGED
    return Entry(
        version=version,
        name=name,
        state=state,
        applied_at=applied["applied_at"] if applied else None,
        in_transaction=known.in_transaction if known else None,
    )
