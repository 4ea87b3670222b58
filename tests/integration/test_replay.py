"""PostgreSQL away: the disk spool of ingestion, its bound, its damage, and the ledger after."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio
from tests.dictionaries import learn
from tests.integration.test_ingestion import (
    EMPTY,
    Fleet,
    drained,
    ingestion,
    letters,
    own_fleet,
    own_postgres,
    raw,
    ready,
    settled,
    start_process,
    stored,
    troubles,
    until,
)

from iotistica import ledger
from iotistica._native import Context, encode_batch, format_topic
from iotistica.breaker import State
from iotistica.embedded.postgres import Postgres
from iotistica.settings import Settings
from iotistica.spool import inventory
from iotistica.store.agents import AgentStore
from iotistica.store.pool import open_pool
from iotistica.store.readings import ReadingStore

__all__ = ["own_fleet", "own_postgres", "raw"]  # fixtures


@pytest.fixture
def quick(spool_dir: Path) -> dict[str, Any]:
    """Settings with a breaker that does not keep a test waiting."""
    return {
        "spool_dir": spool_dir,
        "breaker_failures": 2,
        "breaker_probe_s": 0.3,
        "database_connect_timeout_s": 1.0,
    }


async def down(server: Postgres) -> None:
    server.child.kill()
    await server.child.wait()


async def counters(raw: redis.asyncio.Redis, tenant: str) -> dict[str, int]:
    """The ledger, summed over agents; zeros left out."""
    sums: dict[str, int] = {}
    for name, number in (await raw.hgetall(f"tenant:{{{tenant}}}:ledger")).items():
        _, counter, reason = ledger.parse(name.decode())
        key = f"{counter}:{reason}" if reason else counter
        sums[key] = sums.get(key, 0) + int(number)
    return {key: number for key, number in sums.items() if number}


async def send_counted(fleet: Fleet, *payloads: bytes) -> None:
    """As the bridge sends: counted."""
    counts = {ledger.field(fleet.agent, ledger.ACCEPTED): len(payloads)}
    fields: list[bytes] = []
    for sequence, payload in enumerate(payloads):
        fields += [b"%d-%d %s" % (fleet.start_ms, sequence, fleet.topic), payload]
    await fleet.streams.add(fleet.tenant, fields, counts=counts)


async def test_entries_wait_on_disk_and_are_stored_once_it_is_back(
    own_postgres: Postgres,
    own_fleet: Fleet,
    redis_url: str,
    raw: redis.asyncio.Redis,
    quick: dict[str, Any],
) -> None:
    fleet = own_fleet
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await send_counted(fleet, fleet.payload(10))
        await settled(fleet)
        await down(own_postgres)
        for _ in range(20):
            await send_counted(fleet, *(fleet.payload(10) for _ in range(5)))
        await settled(fleet)
        [holding] = inventory.holdings(quick["spool_dir"])
        assert dict(holding.messages) == {fleet.tenant: 100}
        assert any("PostgreSQL" in trouble for trouble in process.troubles())
        assert await counters(raw, fleet.tenant) == {
            "accepted": 101,
            "settled": 1,
            "spooled": 100,
            "readings": 10,
            "stored": 10,
        }
        await own_postgres.start()
        await until(lambda: drained(process))
        await until(lambda: ready(process))
    assert await stored(own_postgres) == 1010
    assert await fleet.streams.depth(fleet.tenant) == EMPTY
    found = await counters(raw, fleet.tenant)
    assert found.pop("redelivered", 0) + found.pop("stored") == 1010
    assert found == {"accepted": 101, "settled": 101, "readings": 1010}


async def test_messages_of_a_dictionary_never_seen_go_from_disk_to_where_they_wait(
    own_postgres: Postgres,
    own_fleet: Fleet,
    redis_url: str,
    raw: redis.asyncio.Redis,
    quick: dict[str, Any],
) -> None:
    fleet = own_fleet
    compact = [
        orjson.dumps({"v": 1, "p": [[0, fleet.start_ms - n], [1, "d"], [2, "c"], [3, 1.5]]})
        for n in range(1, 4)
    ]
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await send_counted(fleet, fleet.payload(1))
        await settled(fleet)
        await down(own_postgres)
        await send_counted(fleet, *compact, fleet.payload(5))
        await settled(fleet)
        assert await counters(raw, fleet.tenant) == {
            "accepted": 5,
            "settled": 1,
            "spooled": 4,
            "readings": 1,
            "stored": 1,
        }
        await own_postgres.start()
        await until(lambda: drained(process))
        [parked] = await fleet.streams.parking.parked(fleet.tenant)
        assert parked.messages == 3
        found = await counters(raw, fleet.tenant)
        assert (found["accepted"], found["settled"], found.get("spooled", 0)) == (5, 2, 0)
        pool = await open_pool(Settings(database_url=own_postgres.url), application_name="test")
        await learn(pool, fleet.streams, fleet.tenant, fleet.agent)
        pool.terminate()

        async def all_stored() -> bool:
            return await stored(own_postgres) == 9

        await until(all_stored)
        await settled(fleet)
    found = await counters(raw, fleet.tenant)
    assert found.pop("redelivered", 0) + found.pop("stored") == 9
    assert found == {"accepted": 5, "settled": 5, "readings": 9}


async def test_messages_of_agents_never_seen_wait_on_disk_too(
    own_postgres: Postgres,
    own_fleet: Fleet,
    redis_url: str,
    raw: redis.asyncio.Redis,
    quick: dict[str, Any],
) -> None:
    fleet, fresh = own_fleet, str(uuid.uuid4())
    pool = await asyncpg.create_pool(own_postgres.url, min_size=0)
    await AgentStore(pool).add_agents(fleet.tenant, [(fresh, "fresh")])
    await pool.close()
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await until(lambda: ready(process))
        await down(own_postgres)
        for agent in (fresh, str(uuid.uuid4())):
            topic = format_topic(fleet.tenant, agent, "endpoints/modbus").encode()
            await fleet.send(fleet.payload(3), topic=topic)
        await settled(fleet)
        assert (await fleet.streams.depth(fleet.tenant)).dead_letters == 0
        await own_postgres.start()
        await until(lambda: drained(process))
    assert await stored(own_postgres) == 3
    [letter] = await letters(raw, fleet.tenant)
    assert letter[b"reason"] == b"unknown_agent"


async def test_a_full_spool_stops_reading_and_nothing_is_deleted(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str, quick: dict[str, Any]
) -> None:
    fleet = own_fleet
    quick |= {"spool_max_bytes": 1 << 20}
    noise = {"noise": os.urandom(60_000).hex()}
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await until(lambda: ready(process))
        await down(own_postgres)
        for _ in range(20):
            await fleet.send(fleet.payload(1, **noise))

        async def is_full() -> bool:
            return any("its bound is 1048576" in trouble for trouble in process.troubles())

        await until(is_full)
        depth = await fleet.streams.depth(fleet.tenant)
        [holding] = inventory.holdings(quick["spool_dir"])
        assert depth.entries + holding.messages[fleet.tenant] == 20
        assert depth.entries > 0
        assert holding.bytes <= 1 << 20
        await own_postgres.start()
        await settled(fleet)
        await until(lambda: drained(process))
        await until(lambda: ready(process))
    assert await stored(own_postgres) == 20


async def test_a_damaged_segment_is_put_aside_and_blocks_nobody(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str, quick: dict[str, Any]
) -> None:
    fleet = own_fleet
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await until(lambda: ready(process))
        await down(own_postgres)
        for _ in range(3):
            await fleet.send(fleet.payload(5))
            await settled(fleet)
        paths = list(inventory.segments(quick["spool_dir"]))
        whole = bytearray(paths[0].read_bytes())
        whole[len(whole) // 2] ^= 0xFF
        paths[0].write_bytes(whole)
        await own_postgres.start()
        await until(lambda: drained(process))
        assert process.replayer._spool.quarantined == 1
    assert len(paths) == 3
    assert await stored(own_postgres) == 10
    assert (paths[0].parent / "quarantine" / paths[0].name).read_bytes() == whole


async def test_another_process_stores_what_a_killed_one_left_on_disk(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str, quick: dict[str, Any]
) -> None:
    fleet = own_fleet
    await down(own_postgres)
    more = {
        "IOTISTICA_BREAKER_PROBE_S": "0.3",
        "IOTISTICA_DATABASE_CONNECT_TIMEOUT_S": "1",
    }
    # The tenant is found only while the database answers.
    await own_postgres.start()
    process = await start_process(own_postgres.url, redis_url, **more)
    await fleet.send(fleet.payload(1))
    await settled(fleet)
    await down(own_postgres)
    for _ in range(10):
        await fleet.send(fleet.payload(10))
    await settled(fleet)
    process.kill()
    await process.wait()
    await own_postgres.start()
    async with ingestion(own_postgres.url, redis_url, **quick) as successor:
        await until(lambda: drained(successor))
    assert await stored(own_postgres) == 101


async def test_the_breaker_closes_by_itself_when_nothing_is_to_be_written(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str, quick: dict[str, Any]
) -> None:
    fleet = own_fleet
    async with ingestion(own_postgres.url, redis_url, **quick) as process:
        await until(lambda: ready(process))
        await down(own_postgres)
        await fleet.send(fleet.payload(1))
        await until(lambda: troubles(process))
        await settled(fleet)
        await own_postgres.start()

        async def closed() -> bool:
            return process.replayer._station.breaker.state is State.CLOSED

        await until(closed)
        await until(lambda: ready(process))
    assert await stored(own_postgres) == 1


async def test_a_copy_into_a_server_that_hangs_ends_in_time(
    own_postgres: Postgres, own_fleet: Fleet
) -> None:
    fleet, context = own_fleet, Context(own_fleet.tenant)
    context.add_agents([fleet.agent])
    header = b"%d-0 %s" % (fleet.start_ms, fleet.topic)
    # More than the socket holds.
    fields = [part for _ in range(60) for part in (header, fleet.payload(1000))]
    now_ms = time.time_ns() // 1_000_000
    batch = encode_batch([(b"1-0", fields)], context, now_ms=now_ms)
    settings = Settings(database_url=own_postgres.url)
    pool = await open_pool(settings, application_name="test")
    store = ReadingStore(pool, limit_s=1.0)
    await store.make_days(batch.days)
    backends = await pool.fetch("SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL")
    frozen = [own_postgres.child.pid, *(row["pid"] for row in backends)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await store.commit_fresh(batch)
        assert time.monotonic() - started < 10
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    inserted = await store.commit_again(batch)
    assert await stored(own_postgres) == 60_000 >= sum(inserted.values())
    pool.terminate()
