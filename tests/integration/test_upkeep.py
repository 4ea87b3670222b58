"""The platform's own retention: partitions ahead, rollups that are too old, policies."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest

from iotistica._native import Context, encode_batch, format_topic
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.pruning import prune
from iotistica.store.readings import ReadingStore
from iotistica.store.upkeep import days_ahead, drop_rollups, make_ahead, policies

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AGENT = uuid.UUID(int=1)


@pytest.fixture
async def plain(pool: Pool) -> Pool:
    if not await pool.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
        pytest.skip("TimescaleDB makes and drops chunks by itself")
    return pool


@pytest.fixture
async def timescale(pool: Pool) -> Pool:
    if await pool.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
        pytest.skip("plain PostgreSQL has no policies")
    return pool


async def partitions(pool: Pool) -> set[str]:
    rows = await pool.fetch("SELECT place::text FROM readings_days()")
    return {row[0] for row in rows}


async def test_midnight_under_load_makes_no_partition(
    plain: Pool, connection: asyncpg.Connection
) -> None:
    now = datetime.now(UTC)
    await make_ahead(plain, Settings(partition_days_ahead=3), now)
    assert await days_ahead(plain) == 3
    before = await partitions(plain)
    assert len(before) == 4
    context = Context("0123456789ab")
    context.add_agents([str(AGENT)])
    midnight = EPOCH + timedelta(days=(now - EPOCH).days + 1)
    sent = {"metric": "m", "value": 1.0, "timestamp": midnight.isoformat()}
    topic = format_topic("0123456789ab", str(AGENT), "endpoints/x")
    fields = [
        f"{int(now.timestamp() * 1000)}-0 {topic}".encode(),
        orjson.dumps({"messages": [{"deviceName": "d", "readings": [sent]}]}),
    ]
    made = encode_batch([(b"1-0", fields)], context, now_ms=int(now.timestamp() * 1000))
    # Whoever makes a partition waits for this lock; whoever writes does not.
    async with connection.transaction():
        await connection.execute("LOCK TABLE readings IN SHARE UPDATE EXCLUSIVE MODE")
        async with asyncio.timeout(10):
            await ReadingStore(plain).commit_fresh(made)
    assert await partitions(plain) == before
    assert await plain.fetchval("SELECT time FROM readings") == midnight


async def test_a_partition_that_cannot_be_made_now_is_made_later(plain: Pool) -> None:
    async with plain.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE readings IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Exception, match="lock timeout"):
            await make_ahead(plain, Settings(), datetime.now(UTC))
    await make_ahead(plain, Settings(), datetime.now(UTC))
    assert await days_ahead(plain) == Settings().partition_days_ahead


async def bucket(pool: Pool, level: str, age: timedelta) -> None:
    """A bucket of plain PostgreSQL, or a frozen one."""
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - age
    if level != "daily":
        await pool.execute(f"SELECT rollup_make_month('rollup_{level}', $1)", at)
    await pool.execute(
        f"INSERT INTO rollup_{level} (bucket, agent_uuid, metric_name, device_name, protocol, unit,"
        " sample_count, good_count, value_count, value_sum, value_m2)"
        " VALUES ($1, $2, 'm', '', '', '', 1, 1, 1, 1, 0)",
        *(at, AGENT),
    )


@pytest.mark.parametrize(("level", "days"), [("1m", 60), ("1h", 200), ("daily", 400)])
async def test_each_level_of_rollups_has_a_time_of_its_own(
    pool: Pool, level: str, days: int
) -> None:
    settings = Settings(
        rollup_retention_days_1m=60,
        rollup_retention_days_1h=200,
        rollup_retention_days_daily=400,
    )
    for age in (1, days - 1, days + 32):  # whole months go
        await bucket(pool, level, timedelta(days=age))
    removed = await drop_rollups(pool, settings) | await prune(pool, settings)
    assert {name: removed[name] for name in ("rollup_1m", "rollup_1h", "rollup_daily")} == {
        name: int(name == f"rollup_{level}") for name in ("rollup_1m", "rollup_1h", "rollup_daily")
    }
    assert await pool.fetchval(f"SELECT count(*) FROM rollup_{level}") == 2


async def test_minutes_are_kept_as_long_as_readings_where_nobody_says_otherwise() -> None:
    assert Settings().minute_days == Settings().retention_days == 730
    assert Settings(retention_days=90).minute_days == 90
    assert Settings(rollup_retention_days_1m=30).minute_days == 30


async def test_policies_follow_the_settings(timescale: Pool) -> None:
    settings = Settings(
        retention_days=40,
        rollup_retention_days_1m=30,
        rollup_retention_days_1h=100,
        rollup_retention_days_daily=200,
    )
    wrong = {(one.kind, one.relation): one.days for one in await policies(timescale, settings)}
    assert wrong[("retention", "readings")] == 730
    assert wrong[("retention", "readings_1m")] is None
    await drop_rollups(timescale, settings)
    found = await policies(timescale, settings)
    assert all(one.is_right for one in found)
    assert {(one.kind, one.relation): one.days for one in found} == {
        ("refresh", "readings_1m"): 30,
        ("refresh", "readings_1h"): 30,
        ("refresh", "readings_daily"): 100,
        ("retention", "readings"): 40,
        ("retention", "readings_1m"): 30,
        ("retention", "readings_1h"): 100,
        ("retention", "readings_daily"): 200,
    }
    assert await timescale.fetchval("SELECT retention_policies(40, 30, 100, 200)") == 0
    jobs = await timescale.fetch(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
    )
    for (job,) in jobs:  # they can be carried out as they are
        await timescale.execute(f"CALL run_job({job})")


async def test_a_refresh_never_reaches_back_to_readings_that_were_dropped(
    timescale: Pool, connection: asyncpg.Connection
) -> None:
    today = EPOCH + timedelta(days=(datetime.now(UTC) - EPOCH).days)

    async def run(kind: str, relation: str) -> None:
        while True:
            try:
                job = await connection.fetchval(
                    "SELECT job_id FROM retention_policy($1, $2)", kind, relation
                )
                await connection.execute(f"CALL run_job({job})")
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(0.05)
            else:
                break

    async def daily() -> dict[int, int]:
        rows = await connection.fetch("SELECT bucket, sample_count FROM readings_daily")
        return {(today - row[0]).days: row[1] for row in rows}

    for age in (20, 5):
        await connection.execute(
            "INSERT INTO readings (time, agent_uuid, metric_name, value, protocol)"
            " SELECT $1::timestamptz + n * interval '1 hour', $2, 'm', n, 'x'"
            " FROM generate_series(0, 9) AS n",
            *(today - timedelta(days=age), AGENT),
        )
    for level in ("1m", "1h", "daily"):
        await run("refresh", f"readings_{level}")
    assert await daily() == {20: 10, 5: 10}
    short = Settings(retention_days=10, rollup_retention_days_1m=30)
    await drop_rollups(timescale, short)
    await run("retention", "readings")
    assert await connection.fetchval("SELECT count(*) FROM readings") == 10
    await drop_rollups(timescale, short)
    # Longer again: what is gone stays out of reach.
    await drop_rollups(timescale, Settings(retention_days=700))
    [one] = [
        one
        for one in await policies(timescale, Settings(retention_days=700))
        if (one.kind, one.relation) == ("refresh", "readings_1m")
    ]
    assert one.days is not None
    assert one.days <= 10
    for level in ("1m", "1h", "daily"):
        await run("refresh", f"readings_{level}")
    assert await daily() == {20: 10, 5: 10}


async def test_late_readings_of_a_day_that_was_dropped_do_not_replace_its_rollups(
    plain: Pool,
) -> None:
    day = EPOCH + timedelta(days=(datetime.now(UTC) - EPOCH).days - 20)
    await plain.execute("SELECT readings_make_days(ARRAY[$1::integer])", (day - EPOCH).days)
    insert = (
        "INSERT INTO readings (time, agent_uuid, metric_name, value, protocol)"
        " SELECT $1::timestamptz + n * interval '1 second', $2, 'm', n, 'x'"
        " FROM generate_series($3::integer, $4::integer) AS n"
    )
    await plain.execute(insert, day, AGENT, 0, 99)
    await plain.execute("SELECT rollup_refresh($1, $2)", AGENT, day)
    assert (await prune(plain, Settings(retention_days=10)))["readings"] == 1
    await plain.execute("SELECT readings_make_days(ARRAY[$1::integer])", (day - EPOCH).days)
    await plain.execute(insert, day, AGENT, 100, 109)
    await plain.execute("SELECT rollup_refresh($1, $2)", AGENT, day)
    for level in ("1h", "daily"):
        assert await plain.fetchval(f"SELECT sum(sample_count) FROM readings_{level}") == 100
