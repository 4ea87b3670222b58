"""Whether the TimescaleDB of a database can be used."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum

from iotistica import log
from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.store.inspection import inspected
from iotistica.store.pool import Connection

_LOG = log.get(__name__)
_START_S = 3.0
REQUIRED = (2, 18, 1)
"""Older ones lose rows: INSERT … ON CONFLICT DO NOTHING on compressed chunks."""
_LAST_FOR_15 = (2, 28)
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?(.*)", re.DOTALL)
_CAUSE = "older ones lose rows where compressed chunks get readings again"

_FACTS = """
SELECT current_setting('server_version_num')::integer / 10000 AS major,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb') AS available
"""
_USES = """
SELECT to_regclass('schema_migrations') IS NOT NULL
   AND EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')
"""
_IS_TIMESCALE = "SELECT EXISTS (SELECT FROM schema_migrations WHERE name LIKE '%.timescale')"


class Fitness(StrEnum):
    """How a version fits."""

    GOOD = "good"
    NOTABLE = "notable"
    """Nothing is wrong, but there is something to know."""
    OUTDATED = "outdated"
    """It works; something newer is there, or its version cannot be told."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a version; `advice` is empty where nothing is to be done."""

    fitness: Fitness
    text: str
    advice: str = ""

    def enforce(self) -> None:
        """Raises `ConfigError` for a version that would lose data."""
        if self.fitness is Fitness.REFUSED:
            raise ConfigError(f"{self.text}; {self.advice}")


def parse(version: str) -> tuple[tuple[int, int, int], bool] | None:
    """Numbers of a version, and whether it is a pre-release; None for what is no version."""
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        return None
    major, minor, patch, rest = match.groups()
    return (int(major), int(minor), int(patch or 0)), bool(rest)


def judge(*, installed: str | None, available: str | None, postgres_major: int) -> Verdict:
    """Judge the extension of a database (`installed`), else the one it would get (`available`).

    A pre-release counts as older than its release. Pure.
    """
    version = available if installed is None else installed
    if version is None:
        return Verdict(Fitness.GOOD, "no TimescaleDB")
    found = parse(version)
    rule = ".".join(map(str, REQUIRED))
    if found is None:
        return Verdict(
            Fitness.OUTDATED,
            f"TimescaleDB has the version {version[:40]!r}, which says nothing",
            f"make sure that it is {rule} or newer",
        )
    if _is_old(found):
        text = f"TimescaleDB {version} is too old: {rule} or newer is required, {_CAUSE}"
        return Verdict(Fitness.REFUSED, text, _cure(installed, available, rule))
    if installed is not None and available is not None and _is_newer(available, installed):
        return Verdict(
            Fitness.OUTDATED,
            f"the database uses TimescaleDB {installed}, the server has {available}",
            "run `ALTER EXTENSION timescaledb UPDATE` as the first command of a new session",
        )
    if postgres_major == 15 and found[0][:2] >= _LAST_FOR_15:
        return Verdict(
            Fitness.NOTABLE,
            f"TimescaleDB {version}; 2.28 is the last series for PostgreSQL 15: newer ones need "
            "PostgreSQL 16",
        )
    return Verdict(Fitness.GOOD, f"TimescaleDB {version}")


async def verdict(connection: Connection) -> Verdict:
    """Judge what this database has. Reads only."""
    facts = await connection.fetchrow(_FACTS)
    if facts is None:
        raise ConfigError("PostgreSQL said nothing of its version")
    return judge(
        installed=facts["installed"],
        available=facts["available"],
        postgres_major=facts["major"],
    )


async def enforce(connection: Connection) -> Verdict | None:
    """Judge a database that keeps readings in TimescaleDB; None for others.

    Raises `ConfigError` for a version that would lose data.
    """
    if not await connection.fetchval(_USES) or not await connection.fetchval(_IS_TIMESCALE):
        return None
    found = await verdict(connection)
    found.enforce()
    return found


async def check_at_start(database_url: str) -> None:
    """Refuse a version that would lose data, and log what is to be known of another.

    A database that is away now is not waited for: the services start without. Raises `ConfigError`.
    """
    try:
        async with asyncio.timeout(_START_S), inspected(database_url) as connection:
            found = await enforce(connection)
    except (StoreUnavailable, TimeoutError) as error:
        _LOG.warning("the version of TimescaleDB is not checked", error=str(error))
        return
    if found is not None and found.fitness is not Fitness.GOOD:
        say = _LOG.info if found.fitness is Fitness.NOTABLE else _LOG.warning
        say(found.text, advice=found.advice or None)


def _is_old(found: tuple[tuple[int, int, int], bool]) -> bool:
    numbers, is_pre = found
    return numbers < REQUIRED or (numbers == REQUIRED and is_pre)


def _is_newer(one: str, other: str) -> bool:
    first, second = parse(one), parse(other)
    if first is None or second is None:
        return False
    return (first[0], not first[1]) > (second[0], not second[1])


def _cure(installed: str | None, available: str | None, rule: str) -> str:
    there = parse(available) if available is not None else None
    update = "run `ALTER EXTENSION timescaledb UPDATE` as the first command of a new session"
    if installed is not None and there is not None and not _is_old(there):
        return update
    package = f"install TimescaleDB {rule} or newer on the server"
    return package if installed is None else f"{package}, restart it, and {update}"
