"""Rollups on both storage profiles: the same numbers, whatever comes late, whenever one looks."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import orjson
import pytest

from iotistica._native import Batch, Context, encode_batch, format_topic
from iotistica.store.pool import Pool
from iotistica.store.readings import ReadingStore
from iotistica.store.rollups import Rollups

TENANT = "0123456789ab"
AGENT, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
# Far from now, so that TimescaleDB's own policies have nothing to do meanwhile.
NOW = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
STEPS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "daily": timedelta(days=1)}
QUALITIES = ("good", "bad", "uncertain")


@dataclass(frozen=True)
class Reading:
    """What an agent sends."""

    time: datetime
    value: float | None
    metric: str = "temperature"
    device: str | None = "press-1"
    unit: str | None = "C"
    quality: str = "good"
    score: float | None = None
    agent: str = AGENT


def batch(readings: Iterable[Reading]) -> Batch:
    """The readings as agents send them, one message each."""
    context = Context(TENANT)
    context.add_agents([AGENT, OTHER])
    now_ms = int(NOW.timestamp() * 1000)
    fields: list[bytes] = []
    for number, one in enumerate(readings):
        topic = format_topic(TENANT, one.agent, "endpoints/x")
        sent = {
            "metric": one.metric,
            "value": one.value,
            "unit": one.unit,
            "quality": one.quality,
            "timestamp": one.time.isoformat(),
            "anomaly_score": one.score,
        }
        message = {"deviceName": one.device, "readings": [sent]}
        fields += f"{now_ms}-{number} {topic}".encode(), orjson.dumps({"messages": [message]})
    made = encode_batch([(b"1-0", fields)], context, now_ms=now_ms)
    assert not made.rejects, made.rejects[0].detail
    return made


def expected(readings: Iterable[Reading], step: timedelta) -> dict[tuple, dict]:
    """Buckets as the documentation defines them, computed in the plainest way."""
    groups: dict[tuple, list[Reading]] = defaultdict(list)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for one in sorted(readings, key=lambda one: one.time):
        bucket = epoch + (one.time - epoch) // step * step
        groups[(bucket, one.agent, one.metric, one.device, one.unit)].append(one)
    buckets = {}
    for key, some in groups.items():
        valued = [(one.time, one.value) for one in some if one.value is not None]
        values = [value for _, value in valued]
        scores = [one.score for one in some if one.score is not None]
        buckets[key] = {
            "avg_value": statistics.fmean(values) if values else None,
            "min_value": min(values, default=None),
            "max_value": max(values, default=None),
            "first_value": values[0] if values else None,
            "last_value": values[-1] if values else None,
            "stddev_value": statistics.stdev(values) if len(values) > 1 else None,
            "sample_count": len(some),
            "quality_ratio": sum(one.quality == "good" for one in some) / len(some),
            "max_anomaly_score": max(scores, default=None),
            "value_count": len(values),
            "first_time": valued[0][0] if valued else None,
            "last_time": valued[-1][0] if valued else None,
        }
    return buckets


def assert_same(rows: Sequence[asyncpg.Record], buckets: dict[tuple, dict]) -> None:
    found = {
        (row["bucket"], str(row["agent_uuid"]), *row[2:4], row["unit"]): dict(row) for row in rows
    }
    assert sorted(map(str, found)) == sorted(map(str, buckets))
    for key, bucket in buckets.items():
        for name, value in bucket.items():
            if isinstance(value, float):
                assert math.isclose(found[key][name], value, rel_tol=1e-9, abs_tol=1e-9), (
                    key,
                    name,
                )
            else:
                assert found[key][name] == value, (key, name)


async def check(connection: asyncpg.Connection, readings: Sequence[Reading]) -> None:
    """Views for people, and the function of the API, at all levels."""
    metrics = sorted({one.metric for one in readings})
    for level, step in STEPS.items():
        buckets = expected(readings, step)
        assert_same(await connection.fetch(f"SELECT * FROM readings_{level}"), buckets)
        rows = await connection.fetch(
            "SELECT * FROM readings_buckets($1, $2, $3, $4, $5)",
            *(level, [AGENT, OTHER], metrics, NOW - timedelta(days=30), NOW + timedelta(days=1)),
        )
        since = (NOW - timedelta(days=30)).replace(hour=0, minute=0)
        assert since < min(one.time for one in readings)
        assert_same(rows, buckets)


async def has_marks(connection: asyncpg.Connection) -> bool:
    return await connection.fetchval("SELECT to_regclass('rollup_marks') IS NOT NULL")


async def refresh(pool: Pool, connection: asyncpg.Connection, now: datetime = NOW) -> None:
    """Everything that policies, or the chore, do in time."""
    if await has_marks(connection):
        rollups = Rollups(pool)
        await rollups.refresh(now)
        assert await rollups.waiting() == 0
        return
    for level in STEPS:
        statement = f"CALL refresh_continuous_aggregate('readings_{level}', NULL, NULL)"
        while True:
            try:
                await connection.execute(statement)
            except asyncpg.LockNotAvailableError:
                # The first run of its policy is under way.
                await asyncio.sleep(0.05)
            else:
                break


def some_readings(seed: int, *, count: int, hours: float = 50.0) -> list[Reading]:
    """Irregular times, several series, gaps, values without a number, large means."""
    choose = random.Random(seed)
    made: dict[tuple, Reading] = {}
    for _ in range(count):
        time = NOW - timedelta(microseconds=choose.randrange(int(hours * 3.6e9)) // 1000 * 1000)
        one = Reading(
            time=time,
            value=None if choose.random() < 0.05 else 1e6 + choose.gauss(0, 0.01),
            metric=choose.choice(["temperature", "vibration.x", 'odd "{name}"']),
            device=choose.choice(["press-1", "press-2", None]),
            unit=choose.choice(["C", None]),
            quality=choose.choice(QUALITIES),
            score=choose.choice([None, 0.25, 0.75]),
            agent=choose.choice([AGENT, OTHER]),
        )
        made[(one.agent, one.metric, one.time)] = one
    return list(made.values())


@pytest.fixture
def store(pool: Pool) -> ReadingStore:
    return ReadingStore(pool)


async def test_buckets_are_right_before_and_after_they_are_made(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    readings = some_readings(1, count=2000)
    await store.commit_fresh(batch(readings))
    if await has_marks(connection):  # TimescaleDB shows what is late only after its next refresh
        await check(connection, readings)
    await refresh(pool, connection)
    await check(connection, readings)


async def test_late_readings_reach_every_level(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    readings = some_readings(2, count=1000)
    early, late = readings[::2], readings[1::2]
    await store.commit_fresh(batch(early))
    await refresh(pool, connection)
    await store.commit_fresh(batch(late))
    await refresh(pool, connection)
    await check(connection, readings)


async def test_readings_that_come_again_change_nothing(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    readings = some_readings(3, count=600)
    await store.commit_fresh(batch(readings))
    await refresh(pool, connection)
    assert await store.commit_again(batch(readings)) == {}
    await refresh(pool, connection)
    await check(connection, readings)


async def needs_marks(connection: asyncpg.Connection) -> None:
    if not await has_marks(connection):
        pytest.skip("TimescaleDB finds by itself what has changed")


async def test_an_hour_waits_for_those_who_write_into_it_while_it_is_closed(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    await needs_marks(connection)
    start = NOW.replace(minute=0)
    first = [Reading(start + timedelta(seconds=n), float(n)) for n in range(100)]
    second = [Reading(start + timedelta(seconds=n), float(n)) for n in range(100, 200)]
    await store.commit_fresh(batch(first))
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE readings_20260310 IN SHARE MODE")  # stops writers alone
    writing = asyncio.create_task(store.commit_fresh(batch(second)))
    while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.01)
    assert await pool.fetchval("SELECT count(*) FROM rollup_marks") == 1, "the second needs no mark"
    refreshing = asyncio.create_task(Rollups(pool).refresh(NOW + timedelta(hours=1)))
    while await pool.fetchval("SELECT closed_before FROM rollup_state") <= start:
        await asyncio.sleep(0.01)
    await transaction.rollback()
    await writing
    assert await refreshing == 1
    assert await pool.fetchval("SELECT count(*) FROM rollup_marks") == 0
    await check(connection, first + second)


async def test_open_hours_are_marked_once_by_each_process_and_closed_ones_always(
    store: ReadingStore, pool: Pool, connection: asyncpg.Connection
) -> None:
    await needs_marks(connection)

    async def marks() -> list[tuple[str, datetime]]:
        rows = await connection.fetch("SELECT agent_uuid::text, hour FROM rollup_marks ORDER BY 2")
        return [tuple(row) for row in rows]

    hour = NOW.replace(minute=0)
    for minute in range(3):
        await store.commit_fresh(batch([Reading(hour + timedelta(minutes=minute), 1.0)]))
    assert await marks() == [(AGENT, hour)]
    await ReadingStore(pool).commit_fresh(batch([Reading(hour + timedelta(minutes=3), 1.0)]))
    assert await marks() == [(AGENT, hour)] * 2
    assert await Rollups(pool).refresh(NOW + timedelta(hours=1)) == 1
    for minute in range(4, 6):
        await store.commit_fresh(batch([Reading(hour + timedelta(minutes=minute), 1.0)]))
        assert await marks() == [(AGENT, hour)] * (minute - 3)


async def test_a_batch_that_was_not_committed_leaves_its_hours_to_the_next(
    store: ReadingStore, connection: asyncpg.Connection
) -> None:
    await needs_marks(connection)
    one, other = (Reading(NOW + timedelta(seconds=n), 1.0) for n in range(2))
    await connection.execute("ALTER TABLE readings ADD CONSTRAINT none CHECK (false) NOT VALID")
    with pytest.raises(asyncpg.CheckViolationError):
        await store.commit_fresh(batch([one]))
    await connection.execute("ALTER TABLE readings DROP CONSTRAINT none")
    await store.commit_fresh(batch([other]))
    assert await connection.fetchval("SELECT count(*) FROM rollup_marks") == 1


async def test_many_write_while_hours_are_closed_and_made(
    pool: Pool, connection: asyncpg.Connection
) -> None:
    await needs_marks(connection)
    readings = some_readings(4, count=3000, hours=30.0)
    parts = [readings[n::60] for n in range(60)]
    rollups, over = Rollups(pool), asyncio.Event()

    async def write(store: ReadingStore, some: Sequence[Sequence[Reading]]) -> None:
        for part in some:
            await store.commit_fresh(batch(part))

    async def refresh_all_the_time() -> None:
        hour = 0
        while not over.is_set():
            await rollups.refresh(NOW + timedelta(hours=min(hour, 30) - 29))
            hour += 1

    refreshing = asyncio.create_task(refresh_all_the_time())
    await asyncio.gather(*(write(ReadingStore(pool), parts[n::3]) for n in range(3)))
    over.set()
    await refreshing
    await check(connection, readings)
    await rollups.refresh(NOW + timedelta(days=1))
    assert await rollups.waiting() == 0
    await check(connection, readings)
