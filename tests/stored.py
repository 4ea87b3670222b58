"""Readings as ingestion leaves them, and what chores and policies do to them in time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg

from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.retention import Retention
from iotistica.store.rollups import Rollups

# Far from now, so that TimescaleDB's own policies have nothing to do meanwhile.
NOW = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
LEVELS = ("1m", "1h", "daily")
PER_DAY = 72
_RULE = """
INSERT INTO retention_rules (tenant_id, pattern, keep_days, remove_rollups) VALUES ($1, $2, $3, $4)
"""


async def measure(
    pool: Pool, agent: str, metric: str, start: datetime, *, days: int = 1, shift_s: int = 0
) -> None:
    """Readings every 20 minutes, as ingestion leaves them."""
    async with pool.acquire() as connection:
        if await is_plain(pool):
            first = (start - datetime(1970, 1, 1, tzinfo=UTC)).days
            await connection.execute(
                "SELECT readings_make_days($1)", list(range(first, first + days))
            )
        async with connection.transaction():
            await connection.execute(
                """
                INSERT INTO readings (time, agent_uuid, metric_name, value, protocol, extra)
                SELECT $3::timestamptz + n * interval '20 minutes' + $5 * interval '1 second', $1,
                       $2, n % 7 + extract(hour FROM $3::timestamptz), 'x', '{"device_name": "d"}'
                FROM generate_series(0, $4::integer * 72 - 1) AS n
                """,
                *(agent, metric, start, days, shift_s),
            )
            await connection.execute(
                """
                INSERT INTO readings_latest
                    (agent_uuid, device_name, metric_name, value, protocol, time)
                SELECT agent_uuid, 'd', metric_name, value, protocol, time FROM readings
                WHERE agent_uuid = $1 AND metric_name = $2 ORDER BY time DESC LIMIT 1
                ON CONFLICT DO NOTHING
                """,
                *(agent, metric),
            )
            if await is_plain(pool):
                await connection.execute(
                    """
                    INSERT INTO rollup_marks (agent_uuid, hour)
                    SELECT $1, $2::timestamptz + n * interval '1 hour'
                    FROM generate_series(0, $3::integer * 24 - 1) AS n
                    """,
                    *(agent, start, days),
                )
        # Else it is a second until others see how many rows came in.
        await connection.execute("SELECT pg_stat_force_next_flush()")


async def is_plain(pool: Pool) -> bool:
    return await pool.fetchval("SELECT to_regclass('rollup_marks') IS NOT NULL")


async def refresh(pool: Pool) -> None:
    """Everything that policies, or the chore, do in time."""
    if await is_plain(pool):
        await Rollups(pool).refresh(datetime.now(UTC))
        assert await Rollups(pool).waiting() == 0
        return
    for level in LEVELS:
        while True:
            try:
                await pool.execute(
                    f"CALL refresh_continuous_aggregate('readings_{level}', NULL, NULL)"
                )
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(0.05)  # the first run of its policy is under way
            else:
                break


async def rule(
    pool: Pool, tenant: str, pattern: str, keep_days: int, *, remove_rollups: bool = False
) -> None:
    await pool.execute(_RULE, tenant, pattern, keep_days, remove_rollups)


async def sweep(pool: Pool, now: datetime = NOW, **settings: Any) -> int:
    """Until all is done; how many readings went."""
    retention, total = Retention(pool, Settings(retention_pause_ms=0, **settings)), 0
    while True:
        swept = await retention.sweep(now)
        total += sum(swept.removed.values())
        if swept.is_done:
            return total
