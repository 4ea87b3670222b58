"""Tenants keep less than the platform: what is removed, and what stays, on both profiles."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.retention import Retention
from iotistica.store.rollups import Rollups

# Far from now, so that TimescaleDB's own policies have nothing to do meanwhile.
NOW = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
FIRST = datetime(2026, 3, 4, tzinfo=UTC)
LEVELS = ("1m", "1h", "daily")
PER_DAY = 72
RULE = """
INSERT INTO retention_rules (tenant_id, pattern, keep_days, remove_rollups) VALUES ($1, $2, $3, $4)
"""


@pytest.fixture
async def agent(pool: Pool, tenant: str) -> str:
    """Six days of two metrics; rollups are made."""
    agent = str(uuid.uuid4())
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(agent, "agent")])
    for metric in ("temp", "energy"):
        await measure(pool, agent, metric, FIRST, days=6)
    await refresh(pool)
    return agent


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
        await Rollups(pool).refresh(NOW)
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
    await pool.execute(RULE, tenant, pattern, keep_days, remove_rollups)


async def sweep(pool: Pool, now: datetime = NOW, **settings: Any) -> int:
    """Until all is done; how many readings went."""
    retention, total = Retention(pool, Settings(retention_pause_ms=0, **settings)), 0
    while True:
        swept = await retention.sweep(now)
        total += sum(swept.removed.values())
        if swept.is_done:
            return total


async def days_of(pool: Pool, agent: str, metric: str) -> dict[int, int]:
    """Readings by day of the month."""
    rows = await pool.fetch(
        "SELECT extract(day FROM time AT TIME ZONE 'UTC')::integer, count(*) FROM readings"
        " WHERE agent_uuid = $1 AND metric_name = $2 GROUP BY 1",
        *(agent, metric),
    )
    return dict(rows)


async def buckets(pool: Pool, agent: str, metrics: Sequence[str] = ("temp", "energy")) -> list:
    """What the API is told, at all levels; values as far as sums of them are alike."""
    found = []
    for level in LEVELS:
        rows = await pool.fetch(
            "SELECT * FROM readings_buckets($1, $2, $3, $4, $5)",
            *(level, [agent], list(metrics), FIRST, FIRST + timedelta(days=7)),
        )
        found += [
            (level, *(round(x, 9) if isinstance(x, float) else x for x in row.values()))
            for row in rows
        ]
    return sorted(found, key=repr)


async def compress(pool: Pool) -> None:
    if not await is_plain(pool):
        await pool.execute("SELECT compress_chunk(c) FROM show_chunks('readings') AS c")


@pytest.mark.parametrize("compressed", [False, True])
async def test_days_of_a_metric_go_and_everything_else_stays(
    pool: Pool, tenant: str, agent: str, compressed: bool
) -> None:
    if compressed:
        await compress(pool)
    before = await buckets(pool, agent)
    assert len(before) == 2 * 6 * (72 + 24 + 1)
    await rule(pool, tenant, "temp", 3)
    assert await sweep(pool) == 3 * PER_DAY
    assert await days_of(pool, agent, "temp") == {7: 72, 8: 72, 9: 72}
    assert await days_of(pool, agent, "energy") == dict.fromkeys(range(4, 10), 72)
    assert await buckets(pool, agent) == before
    await refresh(pool)
    assert await buckets(pool, agent) == before
    assert await sweep(pool) == 0
    assert await sweep(pool, NOW + timedelta(days=1)) == PER_DAY


async def test_it_takes_as_many_rows_at_a_time_as_it_is_told(
    pool: Pool, tenant: str, agent: str
) -> None:
    await rule(pool, tenant, "*", 3)
    retention = Retention(pool, Settings(retention_step_rows=50, retention_budget_s=1e-9))
    swept = await retention.sweep(NOW)
    assert (sum(swept.removed.values()), swept.is_done) == (0, False)
    assert await sweep(pool, retention_step_rows=50) == 2 * 3 * PER_DAY
    assert sorted(await days_of(pool, agent, "temp")) == [7, 8, 9]


async def test_rollups_go_with_their_readings_where_the_rule_says_so(
    pool: Pool, tenant: str, agent: str
) -> None:
    await rule(pool, tenant, "temp", 3)
    await sweep(pool)
    await pool.execute("UPDATE retention_rules SET remove_rollups = true")
    energy = await buckets(pool, agent, ["energy"])
    assert await sweep(pool) == 0, "its readings are gone, their rollups go now"
    left = await buckets(pool, agent, ["temp"])
    assert len(left) == 3 * (72 + 24 + 1)
    assert min(row[1] for row in left) == FIRST + timedelta(days=3)
    await refresh(pool)
    assert await buckets(pool, agent, ["temp"]) == left
    assert await buckets(pool, agent, ["energy"]) == energy


async def test_what_comes_late_for_a_day_that_is_removed_is_removed_and_changes_no_rollup(
    pool: Pool, tenant: str, agent: str
) -> None:
    before = await buckets(pool, agent)
    await rule(pool, tenant, "temp", 3)
    await sweep(pool)
    await measure(pool, agent, "temp", FIRST, shift_s=1)
    assert await buckets(pool, agent) == before
    await refresh(pool)
    assert await buckets(pool, agent) == before
    if await is_plain(pool):
        for level in LEVELS:  # views for people, as well
            name = f"SELECT count(*) FROM readings_{level}"
            assert await pool.fetchval(name) == sum(row[0] == level for row in before)
    assert await sweep(pool) == PER_DAY
    assert sorted(await days_of(pool, agent, "temp")) == [7, 8, 9]
    assert await buckets(pool, agent) == before


async def test_late_readings_of_other_series_reach_the_rollups_of_such_a_day(
    pool: Pool, tenant: str, agent: str
) -> None:
    await rule(pool, tenant, "temp", 3)
    await sweep(pool)
    before = await buckets(pool, agent, ["temp"])
    await measure(pool, agent, "energy", FIRST, shift_s=1)
    await refresh(pool)
    energy = await buckets(pool, agent, ["energy"])
    daily = {row[1]: row for row in energy if row[0] == "daily"}
    assert 2 * PER_DAY in daily[FIRST]
    assert await buckets(pool, agent, ["temp"]) == before


async def test_what_is_imported_for_a_series_that_is_not_frozen_then_keeps_its_rollups(
    pool: Pool, tenant: str, agent: str
) -> None:
    await rule(pool, tenant, "*", 3)
    await sweep(pool)
    await measure(pool, agent, "new", FIRST, days=2)
    assert await sweep(pool) == 2 * PER_DAY, "before any rollup was made"
    assert await days_of(pool, agent, "new") == {}
    await refresh(pool)
    new = await buckets(pool, agent, ["new"])
    assert len(new) == 2 * (72 + 24 + 1)
    assert [row for row in new if row[0] == "daily" and PER_DAY in row]


async def test_another_tenant_is_not_touched(pool: Pool, tenant: str, agent: str) -> None:
    other = str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant("ffffffffffff")
    await AgentStore(pool).add_agents("ffffffffffff", [(other, "other")])
    await measure(pool, other, "temp", FIRST)
    await rule(pool, tenant, "*", 1)
    await sweep(pool)
    assert await days_of(pool, other, "temp") == {4: 72}
    assert sorted(await days_of(pool, agent, "temp")) == [9]
