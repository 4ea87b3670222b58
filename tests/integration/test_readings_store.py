"""ReadingStore against both storage profiles, with COPY streams made in Python."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from tests.pgcopy import CopyRows, Row, copy_rows, keys

from iotistica.store.pool import DuplicateKey, Pool, is_refusal, is_transient
from iotistica.store.readings import ReadingStore

AGENT = uuid.UUID("0a8b3b0e-5c1e-4f0e-9d55-0242ac120002")
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def series(count: int, *, start: datetime = NOW, value: float = 1.0) -> list[Row]:
    return [Row(AGENT, "temperature", start + timedelta(seconds=n), value) for n in range(count)]


@pytest.fixture
def store(pool: Pool) -> ReadingStore:
    return ReadingStore(pool)


async def test_fresh_rows_are_stored_column_by_column(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    await store.commit_fresh(copy_rows(Row(AGENT, "temperature", NOW, 21.5)))
    row = await connection.fetchrow("SELECT * FROM readings")
    assert dict(row) == {
        "time": NOW,
        "agent_uuid": AGENT,
        "metric_name": "temperature",
        "value": 21.5,
        "quality": "good",
        "unit": "C",
        "protocol": "modbus",
        "extra": '{"device_name": "device-1"}',
        "anomaly_score": None,
        "anomaly_threshold": None,
    }


async def test_a_duplicate_key_refuses_the_whole_fresh_batch(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    await store.commit_fresh(copy_rows(*series(1)))
    with pytest.raises(DuplicateKey):
        await store.commit_fresh(copy_rows(*series(100)))
    assert await connection.fetchval("SELECT count(*) FROM readings") == 1


async def test_commit_again_stores_what_is_missing_and_counts_it(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    await store.commit_fresh(copy_rows(*series(40, value=1.0)))
    assert await store.commit_again(copy_rows(*series(100, value=2.0))) == {str(AGENT): 60}
    assert await store.commit_again(copy_rows(*series(100, value=3.0))) == {}
    values = await connection.fetch("SELECT value, count(*) FROM readings GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in values] == [(1.0, 40), (2.0, 60)]


async def test_commit_again_counts_by_agent_in_both_of_its_ways(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    agents = [uuid.UUID(int=number) for number in (1, 2)]

    def rows(count: int) -> CopyRows:
        seconds = [timedelta(seconds=second) for second in range(count)]
        return copy_rows(*(Row(agent, "m", NOW + one) for agent in agents for one in seconds))

    one, two = map(str, agents)
    await store.commit_fresh(copy_rows(Row(agents[0], "m", NOW)))
    assert await store.commit_again(rows(100)) == {one: 99, two: 100}
    assert await store.commit_again(rows(1000)) == {one: 900, two: 900}
    assert await connection.fetchval("SELECT count(*) FROM readings") == 2000


async def test_present_tells_which_keys_are_there(store: ReadingStore) -> None:
    stored = copy_rows(*series(100))
    await store.commit_fresh(stored)
    day = timedelta(days=1)
    asked = [
        Row(AGENT, "temperature", NOW - timedelta(microseconds=1)),
        Row(AGENT, "temperature", NOW),
        Row(AGENT, "temperature", NOW + day),
        Row(AGENT, 'no "such" {metric}', NOW),
        Row(uuid.UUID(int=1), "temperature", NOW),
        Row(AGENT, "temperature", NOW + timedelta(seconds=99)),
    ]
    days = [*stored.days, *(one + 1 for one in stored.days)]
    assert await store.present(keys(*asked), days) == [1, 5]


async def test_present_is_never_planned_for_all_days_at_once(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    today = int(NOW.timestamp() // 86_400)
    await store.commit_fresh(copy_rows(*(Row(AGENT, "m", NOW - timedelta(n)) for n in range(5))))
    for _ in range(8):  # PostgreSQL considers a plan for any days from the sixth time on
        await store.present(keys(*series(500)), [today])
    plans = await pool.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements"
        " WHERE statement LIKE '%ROWS FROM%' AND statement NOT LIKE '%pg_prepared%'"
    )
    assert [tuple(row) for row in plans] == [(0, 8)]


async def test_late_rows_find_a_place_on_days_nobody_prepared(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    rows = [Row(AGENT, "m", NOW - timedelta(days=days)) for days in (0, 1, 30, 700)]
    await store.commit_fresh(copy_rows(*rows))
    stored = await connection.fetch("SELECT time FROM readings ORDER BY time DESC")
    assert [row["time"] for row in stored] == [row.time for row in rows]


async def test_rows_at_midnight_land_on_their_own_day(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    midnight = datetime(2026, 11, 20, tzinfo=UTC)
    times = [midnight - timedelta(microseconds=1), midnight]
    await store.commit_fresh(copy_rows(*(Row(AGENT, "m", time) for time in times)))
    homes = await connection.fetch("SELECT DISTINCT tableoid FROM readings")
    assert len(homes) == 2


async def test_many_stores_may_make_the_same_days_while_others_write(
    pool: Pool, connection: asyncpg.Connection
) -> None:
    agents = [uuid.uuid4() for _ in range(6)]

    def batch(agent: uuid.UUID) -> CopyRows:
        return copy_rows(*(Row(agent, "m", NOW - timedelta(days=day)) for day in range(20)))

    await asyncio.gather(*(ReadingStore(pool).commit_fresh(batch(agent)) for agent in agents))
    assert await connection.fetchval("SELECT count(*) FROM readings") == 120


async def test_writers_do_not_wait_for_a_new_partition(
    postgres_url: str, store: ReadingStore, pool: Pool, database: str
) -> None:
    if database != postgres_url:
        pytest.skip("TimescaleDB makes its chunks by itself")
    await store.commit_fresh(copy_rows(*series(1)))
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT readings_make_days('{20000}')")  # its locks are held
        later = copy_rows(*series(1, start=NOW + timedelta(hours=1)))
        await asyncio.wait_for(store.commit_fresh(later), 3)


async def test_partition_dropped_meanwhile_is_made_again(
    postgres_url: str,
    store: ReadingStore,
    database: str,
    connection: asyncpg.Connection,
) -> None:
    if database != postgres_url:
        pytest.skip("TimescaleDB makes its chunks by itself")
    await store.commit_fresh(copy_rows(*series(1)))
    await connection.execute("DROP TABLE readings_20261120")
    with pytest.raises(Exception, match="partition of readings") as caught:
        await store.commit_fresh(copy_rows(*series(1)))
    assert not is_refusal(caught.value)
    await store.commit_fresh(copy_rows(*series(1)))
    assert await connection.fetchval("SELECT count(*) FROM readings") == 1


async def test_latest_moves_forward_only(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    async def latest() -> list[tuple[object, ...]]:
        rows = await connection.fetch("SELECT device_name, value, time FROM readings_latest")
        return [tuple(row) for row in rows]

    later = NOW + timedelta(seconds=1)
    await store.upsert_latest(copy_rows(Row(AGENT, "m", later, 2.0)))
    assert await store.upsert_latest(copy_rows(Row(AGENT, "m", NOW, 1.0))) == 0
    assert await latest() == [("device-1", 2.0, later)]
    assert await store.upsert_latest(copy_rows(Row(AGENT, "m", later, 3.0))) == 1
    assert await latest() == [("device-1", 3.0, later)]


async def test_latest_is_kept_by_device(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    await store.upsert_latest(
        copy_rows(Row(AGENT, "m", NOW, 1.0, "a"), Row(AGENT, "m", NOW, 2.0, "b"))
    )
    rows = await connection.fetch("SELECT device_name, value FROM readings_latest ORDER BY 1")
    assert [tuple(row) for row in rows] == [("a", 1.0), ("b", 2.0)]


async def test_two_writers_of_the_same_series_never_deadlock(pool: Pool) -> None:
    agents = [uuid.uuid4() for _ in range(200)]
    stores = [ReadingStore(pool) for _ in range(4)]
    for step in range(5):
        rows = copy_rows(*(Row(agent, "m", NOW + timedelta(seconds=step)) for agent in agents))
        await asyncio.gather(*(store.upsert_latest(rows) for store in stores))


async def test_broken_stream_is_a_refusal_and_the_next_batch_passes(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    whole = copy_rows(*series(3))
    broken = CopyRows(whole.copy[:-20], whole.latest, whole.parts)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await store.commit_fresh(broken)
    assert is_refusal(caught.value)
    nul = CopyRows(whole.copy.replace(b"modbus", b"mod\0us"), whole.latest, whole.parts)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await store.commit_fresh(nul)
    assert is_refusal(caught.value)
    await store.commit_fresh(whole)
    assert await connection.fetchval("SELECT count(*) FROM readings") == 3


async def test_a_row_too_large_for_the_index_is_a_refusal(store: ReadingStore) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await store.commit_fresh(copy_rows(Row(AGENT, secrets.token_hex(8000), NOW)))
    assert is_refusal(caught.value)


async def test_a_terminated_connection_is_transient(pool: Pool) -> None:
    with pytest.raises(asyncpg.PostgresError) as caught:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
    assert is_transient(caught.value)
    assert not is_refusal(caught.value)


async def test_unmigrated_database_is_unavailable_not_refused(empty_database: str) -> None:
    pool = await asyncpg.create_pool(empty_database, min_size=0)
    with pytest.raises(Exception, match="run `iotistica migrate`"):
        await ReadingStore(pool).commit_fresh(copy_rows(*series(1)))
    await pool.close()
