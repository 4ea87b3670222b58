"""Keeps the platform's own retention: partitions ahead, rollups that are too old, policies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from iotistica.settings import Settings
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.store.pruning import drop_parts
from iotistica.store.turn import turn

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_FOR_LONG = "SET LOCAL lock_timeout = '2s'"

_IS_PLAIN = "SELECT to_regproc('readings_make_days') IS NOT NULL"
_MAKE_DAYS = "SELECT readings_make_days($1), agent_logs_make_days($1)"
_AHEAD = """
SELECT CASE WHEN to_regproc('readings_make_days') IS NOT NULL THEN (
    SELECT count(*) FROM readings_days() WHERE day > now()
) END
"""
_DROP_MONTH = """
SELECT rollup_drop_month($1::text::regclass, now() - make_interval(days => $2))
"""
_NOTE = "SELECT retention_note($1, $2)"
_SET_POLICIES = "SELECT retention_policies($1, $2, $3, $4)"
_HAS_POLICIES = "SELECT to_regproc('retention_policy') IS NOT NULL"
_POLICIES = """
SELECT kind, relation, job_id, days
FROM (VALUES ('refresh', 'readings_1m'), ('refresh', 'readings_1h'), ('refresh', 'readings_daily'),
             ('retention', 'readings'), ('retention', 'readings_1m'),
             ('retention', 'readings_1h'), ('retention', 'readings_daily')
) AS wanted (kind, relation)
LEFT JOIN LATERAL retention_policy(kind, relation) ON true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy of TimescaleDB that there has to be."""

    kind: Literal["refresh", "retention"]
    relation: str
    """`readings` or the name of a rollup."""
    days: int | None
    """How far back it refreshes, or what it leaves; None where it is missing."""
    wanted_days: int
    """What the settings say; a refresh may reach back less far, never farther."""

    @property
    def is_right(self) -> bool:
        """Whether it does what the settings say."""
        if self.days is None:
            return False
        if self.kind == "refresh":
            return self.days <= self.wanted_days
        return self.days == self.wanted_days


async def make_ahead(pool: Pool, settings: Settings, now: datetime) -> None:
    """Make the partitions of the days to come, so that nobody has to at midnight.

    Raises `StoreUnavailable`.
    """
    today = (now.astimezone(UTC) - _EPOCH).days
    days = list(range(today, today + settings.partition_days_ahead + 1))
    with unavailable("make partitions"):
        if await pool.fetchval(_IS_PLAIN):
            async with turn(pool, "partitions") as connection:
                if connection is not None:
                    await connection.execute(_NOT_FOR_LONG)
                    await connection.execute(_MAKE_DAYS, days)


async def days_ahead(pool: Pool) -> int | None:
    """Days after today that have their partition; None where TimescaleDB makes them as needed.

    Raises `StoreUnavailable`.
    """
    with unavailable("look at partitions"):
        found: int | None = await pool.fetchval(_AHEAD)
    return found


async def drop_rollups(pool: Pool, settings: Settings) -> dict[str, int]:
    """Drop months of rollups that are too old, and set policies; how many months.

    Raises `StoreUnavailable`.
    """
    levels = {"1m": settings.minute_days, "1h": settings.rollup_retention_days_1h}
    dropped: dict[str, int] = {}
    with unavailable("remove old rollups"):
        for level, days in levels.items():
            dropped[f"rollup_{level}"] = await drop_parts(
                pool, _DROP_MONTH, f"rollup_{level}", days
            )
        for level, days in (("raw", settings.retention_days), *levels.items()):
            await pool.execute(_NOTE, level, days)
        await pool.execute(
            _SET_POLICIES,
            *(settings.retention_days, *levels.values(), settings.rollup_retention_days_daily),
        )
    return dropped


async def policies(pool: Pool | Connection, settings: Settings) -> list[Policy]:
    """Those that TimescaleDB has to have, and what they say; none with plain PostgreSQL.

    Raises `StoreUnavailable`.
    """
    raw, minutes = settings.retention_days, settings.minute_days
    hours, days = settings.rollup_retention_days_1h, settings.rollup_retention_days_daily
    wanted = {
        ("refresh", "readings_1m"): min(raw, minutes),
        ("refresh", "readings_1h"): minutes,
        ("refresh", "readings_daily"): hours,
        ("retention", "readings"): raw,
        ("retention", "readings_1m"): minutes,
        ("retention", "readings_1h"): hours,
        ("retention", "readings_daily"): days,
    }
    with unavailable("look at policies"):
        if not await pool.fetchval(_HAS_POLICIES):
            return []
        rows = await pool.fetch(_POLICIES)
    return [
        Policy(
            kind=row["kind"],
            relation=row["relation"],
            days=row["days"],
            wanted_days=wanted[(row["kind"], row["relation"])],
        )
        for row in rows
    ]
