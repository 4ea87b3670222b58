"""Reading for many tenants: fair turns, late data, the dead, lost groups, pressure, stopping."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import signal
import time
from typing import Any

import aiohttp
import asyncpg
import pytest
import redis.asyncio
from tests.integration.test_ingestion import (
    Fleet,
    at_least,
    count,
    fleet,
    ingestion,
    raw,
    ready,
    settled,
    start_process,
    troubles,
    until,
)

from iotistica import metrics
from iotistica.embedded.ports import free_port
from iotistica.ingestion.delivery import Delivery
from iotistica.keys import Feed, ingestion_stream
from iotistica.store.pool import Pool
from iotistica.streams import Streams

__all__ = ["fleet", "raw"]  # fixtures

ONE_WORKER = {"ingestion_workers": 1, "autoscale_min_workers": 1, "autoscale_max_workers": 1}

# Transaction ids are given out in the order in which batches begin to write.
ORDER = """
SELECT agent_uuid::text AS agent, xmin::text::bigint AS xid, count(*) AS rows FROM readings
GROUP BY 1, 2 ORDER BY 2
"""
ORDER_BY_VALUE = """
SELECT value, count(*) AS rows FROM readings GROUP BY 1, xmin ORDER BY xmin::text::bigint
"""


async def new_fleet(streams: Streams, pool: Pool) -> Fleet:
    fleet = Fleet(streams, secrets.token_hex(6))
    await fleet.register(pool)
    return fleet


async def test_a_flood_of_one_tenant_does_not_hold_up_another(
    database: str, redis_url: str, streams: Streams, pool: Pool, connection: asyncpg.Connection
) -> None:
    flood, trickle = [await new_fleet(streams, pool) for _ in range(2)]
    await trickle.send(trickle.payload(1))
    batch = 2_000
    async with ingestion(database, redis_url, batch_readings=batch, **ONE_WORKER):
        await settled(trickle)  # its agent is known now
        async with connection.transaction():
            await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            for _ in range(400):
                await flood.send(*(flood.payload(100) for _ in range(5)))
        for _ in range(5):
            before = await count(connection)
            await until(lambda before=before: at_least(connection, before + batch))
            before = await count(connection)
            await trickle.send(trickle.payload(1))
            await settled(trickle)
            [last] = await connection.fetch(
                "SELECT max(xmin::text::bigint) AS xid FROM readings WHERE agent_uuid = $1",
                trickle.agent,
            )
            passed = await connection.fetchval(
                "SELECT count(*) FROM readings WHERE xmin::text::bigint < $1", last["xid"]
            )
            assert passed - before <= 3 * batch  # under way, and begun before it was seen
        assert (await streams.depth(flood.tenant)).entries
        await settled(flood)
    assert await count(connection) == 200_000 + 6


async def test_two_floods_share_by_readings_whatever_their_entries_hold(
    database: str, redis_url: str, streams: Streams, pool: Pool, connection: asyncpg.Connection
) -> None:
    large, small = [await new_fleet(streams, pool) for _ in range(2)]
    batch = 2_000
    async with ingestion(database, redis_url, batch_readings=batch, **ONE_WORKER) as process:
        await large.send(large.payload(1000))
        await small.send(small.payload(100))
        await settled(large)
        await settled(small)  # now it is known what an entry holds
        async with connection.transaction():
            await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            for _ in range(40):
                await large.send(large.payload(1000))
                for _ in range(10):
                    await small.send(small.payload(100))
        await settled(large)
        await settled(small)
        assert process.troubles() == []
    stored = {large.agent: 0, small.agent: 0}
    for row in await connection.fetch(ORDER):
        stored[row["agent"]] += row["rows"]
        assert abs(stored[large.agent] - stored[small.agent]) <= 3 * batch
    assert stored == {large.agent: 41_000, small.agent: 40_100}


async def test_backfill_lets_live_data_pass_and_never_starves(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    only_entry = {"backfill_share": 0.2, "read_max_entries": 1, **ONE_WORKER}
    async with ingestion(database, redis_url, **only_entry):
        await fleet.send(fleet.payload(100, value=0.0))
        await settled(fleet)  # its agent is known now
        async with connection.transaction():
            await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            for _ in range(60):
                now_ms = time.time_ns() // 1_000_000
                late = [b"%d-0 %s" % (now_ms, fleet.topic), fleet.payload(100, value=2.0)]
                await fleet.streams.add(fleet.tenant, late, feed=Feed.BACKFILL)
                await fleet.send(fleet.payload(100, value=1.0))
        await settled(fleet)
        await until(lambda: at_least(connection, 12_100))
    order = [row["value"] for row in await connection.fetch(ORDER_BY_VALUE)]
    live_lasts = order[: len(order) - order[::-1].index(1.0)]
    assert 60 * 0.2 / 0.8 - 3 <= live_lasts.count(2.0) <= 60 * 0.2 / 0.8 + 3


async def test_more_tenants_are_served_than_there_are_connections(
    database: str, redis_url: str, streams: Streams, pool: Pool, connection: asyncpg.Connection
) -> None:
    fleets = [await new_fleet(streams, pool) for _ in range(150)]
    async with ingestion(database, redis_url) as process:
        for fleet in fleets:
            await fleet.send(fleet.payload(1))
        await until(lambda: at_least(connection, 150))
        await until(lambda: ready(process))
        assert process.details()["tenants"] == 150


async def test_no_entry_waits_for_the_next_round(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    """News of an entry that comes just when its stream is being looked at is not lost."""
    async with ingestion(database, redis_url, claim_idle_ms=60_000) as process:
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        process._reader.lookout._next_round = math.inf
        for _ in range(400):
            await fleet.send(fleet.payload(1))
            if random.random() < 0.3:
                await asyncio.sleep(random.uniform(0, 0.01))
        await settled(fleet)
    assert await count(connection) == 401


async def test_a_redis_that_stands_still_for_a_while_stops_nothing(
    database: str,
    redis_url: str,
    fleet: Fleet,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("iotistica.streams.watch._TIMEOUT_S", 0.3)
    async with ingestion(database, redis_url) as process:
        await until(lambda: ready(process))
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        await raw.execute_command("CLIENT", "PAUSE", "1500", "ALL")
        [trouble] = await until(lambda: troubles(process))
        assert trouble.startswith("Redis: ")
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        await until(lambda: ready(process))
    assert await count(connection) == 2


async def test_it_works_where_redis_does_not_tell_of_changes(
    database: str,
    redis_url: str,
    fleet: Fleet,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    await raw.execute_command(
        *("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "&*", "+@all", "-client|tracking")
    )
    address = redis_url.rpartition("@")[2]
    async with ingestion(database, f"redis://deaf:pw@{address}", claim_idle_ms=60_000):
        for _ in range(3):
            await fleet.send(fleet.payload(1))
            await settled(fleet)
    assert await count(connection) == 3
    await raw.execute_command("ACL", "DELUSER", "deaf")


# Consumers that are gone


async def names(raw: redis.asyncio.Redis, tenant: str) -> list[bytes]:
    rows = await raw.xinfo_consumers(ingestion_stream(tenant), f"{tenant}:device-writers")
    return [row["name"] for row in rows]


async def test_what_a_dead_consumer_read_is_claimed_and_its_name_removed(
    database: str,
    redis_url: str,
    fleet: Fleet,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    for _ in range(300):
        await fleet.send(fleet.payload(1))
    await fleet.streams.ensure_group(fleet.tenant)
    await fleet.streams.read(fleet.tenant, "dead", count=299, block_ms=0)
    claimed = metrics.CLAIMED._value.get()
    again = metrics.WRITES.labels("merged")._value.get()
    async with ingestion(database, redis_url, claim_idle_ms=100):
        await settled(fleet)

        async def removed() -> bool:
            return b"dead" not in await names(raw, fleet.tenant)

        await until(removed)
        assert metrics.CLAIMED._value.get() - claimed == 299
        assert metrics.WRITES.labels("merged")._value.get() > again
    assert await count(connection) == 300


async def test_who_stops_leaves_no_consumer_behind(
    database: str, redis_url: str, fleet: Fleet, raw: redis.asyncio.Redis
) -> None:
    async with ingestion(database, redis_url):
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        assert len(await names(raw, fleet.tenant)) == 1
    assert await names(raw, fleet.tenant) == []


async def test_a_defect_met_by_one_tenant_stops_no_other_and_loses_nothing(
    database: str,
    redis_url: str,
    streams: Streams,
    pool: Pool,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlucky, other = [await new_fleet(streams, pool) for _ in range(2)]

    class Broken(Delivery):
        async def store(self) -> None:
            if self._lane.tenant == unlucky.tenant:
                raise RuntimeError("a defect")
            await super().store()

    crashes = metrics.WORKER_CRASHES._value.get()
    async with ingestion(database, redis_url) as process:
        with monkeypatch.context() as patch:
            patch.setattr("iotistica.ingestion.reader.Delivery", Broken)
            await unlucky.send(unlucky.payload(1))

            async def crashed() -> bool:
                return metrics.WORKER_CRASHES._value.get() > crashes

            await until(crashed)
            await other.send(other.payload(1))
            await settled(other)
            assert process.details()["workers"]["busy"] == 0
        await settled(unlucky)
    assert await count(connection) == 2


async def test_a_defect_met_while_reading_does_not_end_the_reading(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, defects = Streams.read, iter([RuntimeError("a defect")])

    async def broken(*args: Any, **more: Any) -> Any:
        for defect in defects:
            raise defect
        return await read(*args, **more)

    monkeypatch.setattr(Streams, "read", broken)
    crashes = metrics.WORKER_CRASHES._value.get()
    async with ingestion(database, redis_url) as process:
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        assert process.details()["workers"]["busy"] == 0
    assert metrics.WORKER_CRASHES._value.get() == crashes + 1
    assert await count(connection) == 1


# Redis without its data


async def group_exists(raw: redis.asyncio.Redis, tenant: str) -> bool:
    for feed in Feed:
        try:
            groups = await raw.xinfo_groups(ingestion_stream(tenant, feed))
        except redis.asyncio.ResponseError:
            return False
        if [group["name"] for group in groups] != [f"{tenant}:device-writers".encode()]:
            return False
    return True


async def test_lost_groups_are_back_within_five_seconds_and_reported_while_nobody_sends(
    database: str,
    redis_url: str,
    fleet: Fleet,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    await fleet.streams.ensure_group(fleet.tenant)
    for _ in range(3):
        await fleet.send(fleet.payload(1))
    await fleet.streams.read(fleet.tenant, "another process", count=2, block_ms=0)
    async with ingestion(database, redis_url, claim_idle_ms=60_000) as process:

        async def two_are_seen() -> bool:
            entries = process.details()["entries"]
            return (entries["unread"], entries["pending"]) == (0, 2)

        await until(two_are_seen)
        recreated = metrics.GROUPS_RECREATED.labels(fleet.tenant)._value.get()
        await raw.flushall()
        await until(lambda: group_exists(raw, fleet.tenant), timeout_s=5)
        assert metrics.GROUPS_RECREATED.labels(fleet.tenant)._value.get() - recreated == 2
        losses = {loss["feed"]: loss["entries_at_most"] for loss in process.details()["losses"]}
        assert losses == {"live": 2, "backfill": 0}
        await fleet.send(fleet.payload(1))
        await until(lambda: at_least(connection, 2))


async def test_a_group_that_somebody_destroys_is_back_within_five_seconds(
    database: str, redis_url: str, fleet: Fleet, raw: redis.asyncio.Redis
) -> None:
    async with ingestion(database, redis_url, claim_idle_ms=60_000) as process:
        await until(lambda: group_exists(raw, fleet.tenant))
        await until(lambda: ready(process))
        for feed in Feed:
            stream = ingestion_stream(fleet.tenant, feed)
            await raw.xgroup_destroy(stream, f"{fleet.tenant}:device-writers")
        await until(lambda: group_exists(raw, fleet.tenant), timeout_s=5)


async def test_what_is_in_hand_when_redis_loses_its_data_is_no_loss(
    database: str,
    redis_url: str,
    fleet: Fleet,
    raw: redis.asyncio.Redis,
    connection: asyncpg.Connection,
) -> None:
    async with ingestion(database, redis_url) as process:
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        async with connection.transaction():
            await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            await fleet.send(fleet.payload(1))

            async def is_in_hand() -> bool:
                return bool(process.details()["entries"]["pending"])

            await until(is_in_hand)
            await raw.flushall()
            await until(lambda: group_exists(raw, fleet.tenant))
        await until(lambda: at_least(connection, 2))
        losses = process.details()["losses"]
    assert [(loss["tenant"], loss["entries_at_most"]) for loss in losses] == [
        (fleet.tenant, 0),
        (fleet.tenant, 0),
    ]


# Pressure


async def test_a_busy_pool_slows_reading_and_stops_nothing(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    busy = metrics.BACKPRESSURE.labels("pool")._value.get()
    for _ in range(20):
        await fleet.send(fleet.payload(10))
    async with ingestion(
        database,
        redis_url,
        read_max_entries=1,
        database_saturation_high_pct=1,
        database_backpressure_sleep_ms=5,
    ):
        await settled(fleet)
    assert metrics.BACKPRESSURE.labels("pool")._value.get() > busy
    assert await count(connection) == 200


async def test_slow_commits_make_batches_smaller(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    async with ingestion(database, redis_url, database_commit_high_ms=0.001) as process:

        async def shares() -> bool:
            await fleet.send(fleet.payload(1))
            return bool(process.details()["batch_share"] < 0.5)

        await until(shares)
        await settled(fleet)
    assert await count(connection) == fleet.sent


async def test_workers_follow_the_lag_up_and_down(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    async with ingestion(
        database,
        redis_url,
        read_max_entries=1,
        ingestion_workers=1,
        autoscale_min_workers=1,
        autoscale_max_workers=3,
        autoscale_lag_target_ms=200,
        autoscale_lag_scale_up_ms=200,
        autoscale_lag_critical_ms=400,
        autoscale_cooldown_ms=0,
        autoscale_scale_down_stable_checks=1,
    ) as process:

        async def most(number: int) -> bool:
            return bool(process.details()["workers"]["most"] == number)

        await fleet.send(fleet.payload(1))
        await settled(fleet)
        async with connection.transaction():
            await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
            for _ in range(9):
                await fleet.send(fleet.payload(10))
            await until(lambda: most(3))
        await settled(fleet)
        await until(lambda: most(1))
    assert await count(connection) == 91


# The stop


async def test_it_stops_quickly_whatever_it_is_doing(
    database: str, redis_url: str, fleet: Fleet
) -> None:
    for turn in range(25):
        async with ingestion(database, redis_url) as process:
            await until(lambda process=process: ready(process))
            for _ in range(turn % 5):
                await fleet.send(fleet.payload(1))
            started = time.monotonic()
        assert time.monotonic() - started < 4


async def test_sigterm_ends_readiness_at_once_and_finishes_what_is_in_hand(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = await start_process(database, redis_url, port)
    try:
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        async with aiohttp.ClientSession() as http:

            async def readiness() -> dict[str, Any]:
                async with http.get(f"{url}/ready") as response:
                    answer: dict[str, Any] = await response.json()
                    return answer

            async with connection.transaction():
                await connection.execute("LOCK TABLE readings IN ACCESS EXCLUSIVE MODE")
                await fleet.send(fleet.payload(2))

                async def is_in_hand() -> int:
                    return (await fleet.streams.depth(fleet.tenant)).pending

                await until(is_in_hand)
                assert await readiness() == {"ready": True, "reasons": []}
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)

                async def is_stopping() -> bool:
                    return await readiness() == {"ready": False, "reasons": ["stopping"]}

                await until(is_stopping)
                await fleet.send(fleet.payload(3))  # nobody reads it
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - started < 10
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await count(connection) == 3
    depth = await fleet.streams.depth(fleet.tenant)
    assert (depth.entries, depth.lag, depth.pending) == (1, 1, 0)
