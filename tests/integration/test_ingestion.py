"""The ingestion service from stream entries to rows, on both storage profiles."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest
import redis.asyncio

from iotistica import metrics
from iotistica._native import format_topic
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis, find_redis
from iotistica.ingestion.main import opened
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.store.pool import Pool
from iotistica.streams import StreamDepth, Streams

EMPTY = StreamDepth(entries=0, lag=0, pending=0, dead_letters=0)


class Fleet:
    """One tenant with one agent, which sends readings of distinct times."""

    def __init__(self, streams: Streams, tenant: str) -> None:
        self.streams = streams
        self.tenant = tenant
        self.agent = str(uuid.uuid4())
        self.topic = format_topic(tenant, self.agent, "endpoints/modbus").encode()
        self.start_ms = time.time_ns() // 1_000_000 - 3_600_000
        self.sent = 0

    async def register(self, pool: Pool) -> None:
        agents = AgentStore(pool)
        await agents.ensure_tenant(self.tenant)
        await agents.add_agents(self.tenant, [(self.agent, "test")])

    def payload(self, count: int = 1, *, value: float = 1.0, **top: Any) -> bytes:
        """A message with `count` readings of the metric m, each at a time of its own."""
        first = self.sent
        self.sent += count
        readings = [
            {"metric": "m", "value": value, "quality": "GOOD", "timestamp": self.start_ms + n}
            for n in range(first, first + count)
        ]
        message = {"deviceName": "d", "timestamp": self.start_ms, "readings": readings}
        return orjson.dumps({"protocol": "modbus", "messages": [message], **top})

    async def send(self, *payloads: bytes, topic: bytes | None = None) -> bytes:
        """One entry with these messages."""
        now_ms = time.time_ns() // 1_000_000
        fields: list[bytes] = []
        for sequence, payload in enumerate(payloads):
            fields += [b"%d-%d %s" % (now_ms, sequence, topic or self.topic), payload]
        return await self.streams.add(self.tenant, fields)


@pytest.fixture
async def fleet(streams: Streams, tenant: str, pool: Pool) -> Fleet:
    fleet = Fleet(streams, tenant)
    await fleet.register(pool)
    return fleet


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


def settings(database: str, redis_url: str, **overrides: Any) -> Settings:
    quick = {
        "claim_idle_ms": 300,
        "tenant_refresh_s": 0.1,
        "breaker_probe_s": 0.3,
        # Their readings are an hour old, for they may not lie in the future.
        "backfill_after_s": 0.0,
    }
    return Settings(database_url=database, redis_url=redis_url, **(quick | overrides))


@asynccontextmanager
async def ingestion(database: str, redis_url: str, **overrides: Any) -> AsyncIterator[Any]:
    """The service on this loop; it stops at the end."""
    stopping = asyncio.Event()
    async with opened(settings(database, redis_url, **overrides), stopping) as process:
        task = asyncio.create_task(process.run())
        try:
            yield process
        finally:
            stopping.set()
            await task


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 20) -> Any:
    """Wait for a true answer."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.02)
    return answer


async def settled(fleet: Fleet) -> None:
    async def empty() -> bool:
        depth = await fleet.streams.depth(fleet.tenant)
        return depth.entries == depth.pending == depth.lag == 0

    await until(empty)


async def count(connection: asyncpg.Connection) -> int:
    return await connection.fetchval("SELECT count(*) FROM readings")


async def letters(raw: redis.asyncio.Redis, tenant: str) -> list[dict[bytes, bytes]]:
    entries = await raw.xrange(f"tenant:{{{tenant}}}:agent:devices:dlq")
    return [fields for _, fields in entries]


async def test_messages_become_rows_and_leave_the_stream(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    await fleet.send(fleet.payload(3), fleet.payload(2))
    await fleet.send(fleet.payload(1))
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 6
    assert await fleet.streams.depth(fleet.tenant) == EMPTY
    latest = await connection.fetchrow("SELECT * FROM readings_latest")
    assert (str(latest["agent_uuid"]), latest["device_name"], latest["metric_name"]) == (
        *(fleet.agent, "d", "m"),
    )
    assert latest["time"].timestamp() * 1000 == fleet.start_ms + 5


async def test_redelivery_after_a_crash_before_settling_doubles_nothing(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    entry = [await fleet.send(fleet.payload(50)) for _ in range(3)]
    async with ingestion(database, redis_url):
        await settled(fleet)
    # The same entries again, as after a crash between COMMIT and XACK: read by one that died.
    fleet.sent = 0
    again = [await fleet.send(fleet.payload(50)) for _ in range(4)]
    await fleet.streams.read(fleet.tenant, "dead", count=10, block_ms=10)
    assert len(entry) == 3
    assert len(again) == 4
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 200


async def test_duplicate_keys_in_new_entries_fall_back_to_the_merge(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    await fleet.send(fleet.payload(10, value=1.0))
    async with ingestion(database, redis_url):
        await settled(fleet)
        fleet.sent = 5
        await fleet.send(fleet.payload(10, value=2.0))
        await settled(fleet)
    rows = await connection.fetch("SELECT value, count(*) FROM readings GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [(1.0, 10), (2.0, 5)]


async def test_unknown_agent_is_dead_lettered_by_value_and_its_neighbor_stored(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    stranger = str(uuid.uuid4())
    topic = format_topic(fleet.tenant, stranger, "endpoints/modbus").encode()
    payload = fleet.payload(2)
    now_ms = time.time_ns() // 1_000_000
    entry_id = await fleet.streams.add(
        fleet.tenant,
        [
            *(b"%d-0 %s" % (now_ms, topic), payload),
            *(b"%d-1 %s" % (now_ms, fleet.topic), fleet.payload(3)),
        ],
    )
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 3
    [letter] = await letters(raw, fleet.tenant)
    assert letter.pop(b"failed_at").endswith(b"+00:00")
    assert letter == {
        b"data": payload,
        b"topic": topic,
        b"original_id": entry_id,
        b"error": f'agent {stranger} is not one of tenant "{fleet.tenant}"'.encode(),
        b"reason": b"unknown_agent",
        b"stage": b"topic",
        b"attempts": b"0",
        b"tenant": fleet.tenant.encode(),
        b"agent": letter[b"agent"],
        b"readings": b"0",
        b"replays": b"0",
        b"received_ms": b"%d" % now_ms,
    }


async def test_bad_messages_are_dead_lettered_and_their_neighbors_stored(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    bad = [b"", b"\xff\xfe", b"{", b"\x78\x9c\x00", b"\x81", b"[" * 1000]
    await fleet.send(fleet.payload(2), *bad, fleet.payload(2))
    await raw.xadd(f"tenant:{{{fleet.tenant}}}:agent:devices:ingestion", {"what": "is this"})
    await fleet.send(fleet.payload(1), topic=b"not/a/topic")
    await fleet.send(fleet.payload(1))
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 5
    found = await letters(raw, fleet.tenant)
    assert sorted(letter[b"data"] for letter in found if letter[b"data"] in bad) == sorted(bad)
    assert {letter[b"stage"] for letter in found} >= {b"decode", b"topic", b"entry"}
    assert len(found) == len(bad) + 2


async def test_a_message_with_one_bad_reading_keeps_the_others(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    readings = [
        {"metric": "m", "value": 1, "timestamp": fleet.start_ms},
        {"metric": "m", "value": 2, "timestamp": "not a time"},
        {"metric": "m", "value": 3, "timestamp": "1970-01-02T00:00:00Z"},
    ]
    payload = orjson.dumps({"messages": [{"deviceName": "d", "readings": readings}]})
    await fleet.send(payload)
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 1
    [letter] = await letters(raw, fleet.tenant)
    assert (letter[b"data"], letter[b"readings"]) == (payload, b"2")
    assert b"; " in letter[b"error"]


async def test_late_data_is_stored_on_days_without_a_partition(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    day_ms = 86_400_000
    readings = [
        {"metric": "m", "value": 1, "timestamp": fleet.start_ms - days * day_ms}
        for days in (0, 1, 40, 400)
    ]
    message = {"deviceName": "d", "readings": readings}
    await fleet.send(orjson.dumps({"messages": [message]}))
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 4
    newest = await connection.fetchval("SELECT time FROM readings_latest")
    assert newest.timestamp() * 1000 == fleet.start_ms


async def test_new_tenant_is_served_without_restart(
    database: str, redis_url: str, streams: Streams, pool: Pool, connection: asyncpg.Connection
) -> None:
    async with ingestion(database, redis_url) as process:
        await until(lambda: ready(process))
        for _ in range(2):
            fleet = Fleet(streams, secrets.token_hex(6))
            await fleet.send(fleet.payload(4))
            await fleet.register(pool)
            await settled(fleet)
    assert await count(connection) == 8


async def ready(process: Any) -> bool:
    return not process.troubles()


async def test_agent_of_another_tenant_is_refused(
    database: str,
    redis_url: str,
    fleet: Fleet,
    streams: Streams,
    pool: Pool,
    connection: asyncpg.Connection,
) -> None:
    other = Fleet(streams, secrets.token_hex(6))
    await other.register(pool)
    stolen = format_topic(other.tenant, fleet.agent, "endpoints/modbus").encode()
    await other.send(other.payload(1), topic=stolen)
    await other.send(other.payload(1), topic=fleet.topic)
    async with ingestion(database, redis_url):
        await settled(other)
    assert await count(connection) == 0
    assert (await streams.depth(other.tenant)).dead_letters == 2


async def at_least(connection: asyncpg.Connection, rows: int) -> bool:
    return await count(connection) >= rows


async def test_a_row_that_the_database_refuses_is_found_and_its_neighbors_stored(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    await connection.execute("ALTER TABLE readings ADD CONSTRAINT odd CHECK (value <> 666)")
    guilty = fleet.payload(2, value=666)
    await fleet.send(*(fleet.payload(2) for _ in range(9)), guilty, fleet.payload(2))
    await fleet.send(fleet.payload(2))
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 22
    [letter] = await letters(raw, fleet.tenant)
    assert (letter[b"data"], letter[b"topic"], letter[b"agent"]) == (
        *(guilty, fleet.topic, fleet.agent.encode()),
    )
    assert (letter[b"reason"], letter[b"readings"]) == (b"refused_by_database", b"2")
    assert b'violates check constraint "' in letter[b"error"]


async def test_dead_letters_raise_an_alarm_and_stop_nothing(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("iotistica.ingestion.main._DEPTH_PERIOD_S", 0.1)
    await fleet.send(*([b"{"] * 80), *(fleet.payload(1) for _ in range(20)))
    async with ingestion(database, redis_url, dlq_max_entries=60) as process:
        await settled(fleet)

        async def alarms() -> list[str]:
            found: list[str] = process.details()["alarms"]
            return found if len(found) == 2 else []

        full, share = await until(alarms)
        assert full.startswith(f"tenant {fleet.tenant}: 80 dead letters, the bound is 60; ")
        assert share.startswith(f"tenant {fleet.tenant}: 80% of the last minute's messages ")
        text = metrics.render().decode()
        assert f'iotistica_dead_letter_share{{tenant="{fleet.tenant}"}} 0.8' in text
        assert f'iotistica_dead_letter_entries{{tenant="{fleet.tenant}"}} 80.0' in text
        [ratio] = re.findall(
            rf'iotistica_dead_letter_bound_ratio{{tenant="{fleet.tenant}"}} (.*)', text
        )
        assert float(ratio) == pytest.approx(80 / 60)
        assert process.troubles() == []
        await fleet.send(fleet.payload(5), b"{")
        await settled(fleet)
    assert await count(connection) == 25
    assert (await fleet.streams.depth(fleet.tenant)).dead_letters == 81


async def test_a_backlog_larger_than_a_batch_is_stored_whole(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    for _ in range(30):
        await fleet.send(*(fleet.payload(1000) for _ in range(5)))
    async with ingestion(database, redis_url):
        await settled(fleet)
    assert await count(connection) == 150_000


async def test_two_processes_share_the_work(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    async with ingestion(database, redis_url), ingestion(database, redis_url):
        for _ in range(100):
            await fleet.send(*(fleet.payload(10) for _ in range(3)))
        await settled(fleet)
    assert await count(connection) == 3000
    assert await fleet.streams.depth(fleet.tenant) == EMPTY


async def test_lost_group_and_stream_are_made_again(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    async with ingestion(database, redis_url):
        await fleet.send(fleet.payload(1))
        await settled(fleet)
        await raw.flushall()
        await fleet.send(fleet.payload(1))
        await settled(fleet)
    assert await count(connection) == 2


async def test_an_entry_of_the_reference_is_stored(
    database: str,
    redis_url: str,
    fleet: Fleet,
    connection: asyncpg.Connection,
    raw: redis.asyncio.Redis,
) -> None:
    record = {
        "deviceUuid": fleet.agent,
        "deviceName": "d",
        "timestamp": fleet.start_ms,
        "data": {"metric": "m", "value": 4.5, "unit": "C", "quality": "good"},
        "metadata": {"protocol": "opcua"},
    }
    stream = f"tenant:{{{fleet.tenant}}}:agent:devices:ingestion"
    await raw.xadd(stream, {"data": orjson.dumps([record]), "source": ""})
    async with ingestion(database, redis_url):
        await settled(fleet)
    row = await connection.fetchrow("SELECT metric_name, value, protocol FROM readings")
    assert tuple(row) == ("m", 4.5, "opcua")


# Servers that fail. One profile serves: the store is not what is tested.


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """A PostgreSQL that the test may kill."""
    tmp_path.chmod(0o711)
    server = Postgres(
        tmp_path / "postgres",
        port=free_port(),
        password=secrets.token_urlsafe(),
        installation=find_postgres(),
    )
    await server.start()
    await migrate(server.url)
    yield server
    await server.stop()


@pytest.fixture
async def own_fleet(own_postgres: Postgres, streams: Streams, tenant: str) -> Fleet:
    fleet = Fleet(streams, tenant)
    pool = await asyncpg.create_pool(own_postgres.url, min_size=0)
    await fleet.register(pool)
    await pool.close()
    return fleet


async def stored(server: Postgres) -> int:
    connection = await asyncpg.connect(server.url)
    try:
        return await count(connection)
    finally:
        await connection.close()


async def test_postgres_killed_and_restarted_loses_nothing(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str
) -> None:
    fleet = own_fleet
    async with ingestion(own_postgres.url, redis_url) as process:
        for _ in range(20):
            await fleet.send(*(fleet.payload(10) for _ in range(5)))
        await until(lambda: ready(process))
        own_postgres.child.kill()
        await own_postgres.child.wait()
        for _ in range(20):
            await fleet.send(*(fleet.payload(10) for _ in range(5)))
        [trouble, *_] = await until(lambda: troubles(process))
        assert trouble.startswith("PostgreSQL (")
        await own_postgres.start()
        await settled(fleet)
        await until(lambda: drained(process))
        await until(lambda: ready(process))
    assert await stored(own_postgres) == 2000
    assert await fleet.streams.depth(fleet.tenant) == EMPTY


async def drained(process: Any) -> bool:
    """Whether nothing waits on disk."""
    return process.replayer._spool.segments == 0


async def troubles(process: Any) -> list[str]:
    return process.troubles()


async def test_stopping_while_postgres_is_away_leaves_entries_pending(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str
) -> None:
    fleet = own_fleet
    async with ingestion(own_postgres.url, redis_url) as process:
        await until(lambda: ready(process))
        own_postgres.child.kill()
        await own_postgres.child.wait()
        await fleet.send(fleet.payload(5))
        await until(lambda: troubles(process))
    assert (await fleet.streams.depth(fleet.tenant)).entries == 1
    await own_postgres.start()
    async with ingestion(own_postgres.url, redis_url):
        await settled(fleet)
    assert await stored(own_postgres) == 5


async def test_stopping_does_not_wait_for_a_server_that_hangs(
    own_postgres: Postgres, own_fleet: Fleet, redis_url: str
) -> None:
    fleet = own_fleet
    connection = await asyncpg.connect(own_postgres.url)
    frozen: list[int] = []
    try:
        async with ingestion(own_postgres.url, redis_url, stop_grace_s=0.5) as process:
            await fleet.send(fleet.payload(1))
            await settled(fleet)
            frozen = [
                row["pid"]
                for row in await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                )
            ]
            for pid in [own_postgres.child.pid, *frozen]:
                os.kill(pid, signal.SIGSTOP)
            await fleet.send(fleet.payload(5))
            await until(lambda: pending(fleet))
            assert not process.troubles()
            started = time.monotonic()
        assert time.monotonic() - started < 5
    finally:
        for pid in [own_postgres.child.pid, *frozen]:
            os.kill(pid, signal.SIGCONT)
        connection.terminate()
    assert (await fleet.streams.depth(fleet.tenant)).entries == 1


async def pending(fleet: Fleet) -> int:
    return (await fleet.streams.depth(fleet.tenant)).pending


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """A Redis that the test may kill; it keeps what it acknowledged."""
    server = Redis(
        tmp_path / "redis", port=free_port(), password=secrets.token_urlsafe(), binary=find_redis()
    )
    await server.start()
    yield server
    await server.stop()


async def test_redis_killed_and_restarted_loses_nothing(
    own_redis: Redis, database: str, pool: Pool, connection: asyncpg.Connection, tenant: str
) -> None:
    streams = Streams(own_redis.url)
    fleet = Fleet(streams, tenant)
    await fleet.register(pool)
    async with ingestion(database, own_redis.url) as process:
        await fleet.send(fleet.payload(10))
        await settled(fleet)
        own_redis.child.kill()
        await own_redis.child.wait()
        [trouble] = await until(lambda: troubles(process))
        assert trouble.startswith("Redis: ")
        await own_redis.start()
        await fleet.send(fleet.payload(10))
        await settled(fleet)
        await until(lambda: ready(process))
    await streams.close()
    assert await count(connection) == 20


PROGRAM = (
    "from iotistica.ingestion.main import run\n"
    "from iotistica.settings import Settings\n"
    "run(Settings.load())"
)


async def start_process(
    database: str, redis_url: str, port: int = 0, **more: str
) -> asyncio.subprocess.Process:
    environment = {
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "IOTISTICA_INGESTION_PORT": str(port),
        "IOTISTICA_CLAIM_IDLE_MS": "500",
        "IOTISTICA_TENANT_REFRESH_S": "0.1",
        "IOTISTICA_BACKFILL_AFTER_S": "0",
        **more,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM), env={**os.environ, **environment}
    )


async def test_killed_five_times_loses_nothing_and_doubles_nothing(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    process = await start_process(database, redis_url)
    try:
        for _ in range(5):
            before = await count(connection)
            for _ in range(40):
                await fleet.send(*(fleet.payload(100) for _ in range(5)))
            await until(lambda before=before: at_least(connection, before + 1))
            process.kill()
            await process.wait()
            process = await start_process(database, redis_url)
        await settled(fleet)
    finally:
        process.kill()
        await process.wait()
    assert fleet.sent == 100_000
    assert await count(connection) == 100_000
    assert await fleet.streams.depth(fleet.tenant) == EMPTY


async def test_process_tells_its_state_and_ends_cleanly_on_sigterm(
    database: str, redis_url: str, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    await fleet.send(fleet.payload(7), b"{")
    process = await start_process(database, redis_url, port)
    try:
        async with aiohttp.ClientSession() as http:

            async def is_ready() -> bool:
                try:
                    async with http.get(f"{url}/ready") as response:
                        return response.status == 200
                except aiohttp.ClientError:
                    return False

            await until(is_ready)
            await settled(fleet)
            async with http.get(f"{url}/health") as response:
                health = await response.json()
            assert (health["status"], health["tenants"], health["troubles"]) == ("healthy", 1, [])
            async with http.get(f"{url}/metrics") as response:
                text = await response.text()
        assert "iotistica_readings_stored_total 7.0" in text
        assert 'iotistica_dead_letters_total{stage="decode"} 1.0' in text
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert time.monotonic() - started < 10
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await count(connection) == 7
