"""Bounds of questions, on both storage profiles: time, and connections."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest
from tests.rest import Rest, open_rest

from iotistica.errors import Busy, DatabaseUnavailable, TooSlow
from iotistica.settings import Settings
from iotistica.store.exports import Chosen, ExportStore, Layout
from iotistica.store.pool import Pool, open_pool, use_of
from iotistica.store.query_slots import QuerySlots
from iotistica.store.read_session import demote
from iotistica.streams import Streams

CATALOG = "/api/v1/metrics/catalog"
LOCK = "LOCK TABLE readings_latest IN ACCESS EXCLUSIVE MODE"


async def sleep_often(slots: QuerySlots) -> None:
    async with slots.take("sleep") as reader:
        while True:
            await reader.fetchval("SELECT pg_sleep(0.1)")


async def test_a_question_ends_at_its_limit_and_leaves_a_connection_that_works(pool: Pool) -> None:
    slots = QuerySlots(pool, most=1, limit_s=0.2)
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(TooSlow, match=r"longer than 0\.2 s \(IOTISTICA_QUERY_TIMEOUT_S\)"):
            async with slots.take("sleep") as reader:
                await reader.fetchval("SELECT pg_sleep(30)")
        assert time.monotonic() - started < 5
    # All statements of a question together, too.
    with pytest.raises(TooSlow):
        await sleep_often(slots)
    async with slots.take("read") as reader:
        assert await reader.fetchval("SELECT 1") == 1
    assert use_of(pool).active == 0
    # The limit is the question's alone.
    assert await pool.fetchval("SELECT current_setting('statement_timeout')") == "10s"


async def test_a_question_changes_nothing(pool: Pool) -> None:
    slots = QuerySlots(pool)
    with pytest.raises(DatabaseUnavailable, match="read-only transaction"):
        async with slots.take("write") as reader:
            await reader.fetchval("INSERT INTO tenants VALUES ('x', 'x')")


async def test_who_waits_too_long_for_a_slot_is_refused(pool: Pool) -> None:
    slots = QuerySlots(pool, most=1, limit_s=0.2)
    async with slots.take("hold"):
        with pytest.raises(Busy, match=r"1 queries are under way .* IOTISTICA_QUERY_MAX_AT_ONCE"):
            async with slots.take("wait"):
                pytest.fail("there is one slot only")
    async with slots.take("again") as reader:
        assert await reader.fetchval("SELECT 1") == 1


async def test_heavy_questions_leave_connections_to_everybody_else(
    rest: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(LOCK)
    most = use_of(pool).most
    waiting = [asyncio.create_task(rest.ask("GET", CATALOG)) for _ in range(2 * most)]
    async with asyncio.timeout(5):
        assert (await rest.ask("GET", "/api/v1/agents")).status == 200
        assert (await rest.ask("GET", "/api/v1/fleets")).status == 200
    assert not any(one.done() for one in waiting)
    await transaction.rollback()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * len(waiting)


async def test_what_takes_too_long_is_answered_by_its_rule(
    rest: Rest, pool: Pool, streams: Streams, redis_url: str, connection: asyncpg.Connection
) -> None:
    async with open_rest(
        pool, streams, rest.tenant, redis_url=redis_url, query_timeout_s=0.2, query_max_at_once=1
    ) as bounded:
        async with connection.transaction():
            await connection.execute(LOCK)
            answer = await bounded.ask("GET", CATALOG)
            assert (answer.status, answer.body["error"]) == (504, "Query timeout")
            assert "IOTISTICA_QUERY_TIMEOUT_S" in answer.body["message"]
        assert (await bounded.ask("GET", CATALOG)).status == 200


def niceness(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.fixture
async def narrow(database: str) -> AsyncIterator[Pool]:
    """A pool of one connection."""
    settings = Settings(database_url=database, database_pool_size=1)
    pool = await open_pool(settings, application_name="narrow")
    yield pool
    await pool.close()


async def test_a_long_question_gives_way_and_its_connection_goes(narrow: Pool) -> None:
    slots = QuerySlots(narrow, demote_after_s=0.1)
    async with slots.take("sleep") as reader:
        pid = await reader.fetchval("SELECT pg_backend_pid()")
        assert niceness(pid) == niceness(0)
        await reader.fetchval("SELECT pg_sleep(0.3)")
        assert niceness(pid) == 19
    async with slots.take("read") as reader:
        following = await reader.fetchval("SELECT pg_backend_pid()")
        assert following != pid
        assert niceness(following) == niceness(0)


async def test_a_long_question_that_fails_gives_way_too(narrow: Pool) -> None:
    slots = QuerySlots(narrow, limit_s=0.3, demote_after_s=0.1)
    pid = await narrow.fetchval("SELECT pg_backend_pid()")
    with pytest.raises(TooSlow):
        await sleep_often(slots)
    assert use_of(narrow).active == 0
    assert await narrow.fetchval("SELECT pg_backend_pid()") != pid


@pytest.mark.parametrize("demote_after_s", [0, 30])
async def test_other_questions_keep_their_connection(narrow: Pool, demote_after_s: float) -> None:
    slots, pids = QuerySlots(narrow, demote_after_s=demote_after_s), set()
    for _ in range(2):
        async with slots.take("sleep") as reader:
            pids.add(await reader.fetchval("SELECT pg_backend_pid()"))
            await reader.fetchval("SELECT pg_sleep(0.1)")
            assert niceness(*pids) == niceness(0)


async def test_an_export_gives_way(narrow: Pool) -> None:
    await narrow.execute("INSERT INTO tenants VALUES ('plant', 'plant')")
    agent = await narrow.fetchval(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES (gen_random_uuid(), 'plant', 'a') "
        "RETURNING uuid"
    )
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if await narrow.fetchval("SELECT to_regprocedure('readings_make_days(integer[])') IS NOT NULL"):
        await narrow.execute("SELECT readings_make_days($1)", [int(day.timestamp()) // 86_400])
    await narrow.execute(
        "INSERT INTO readings (time, agent_uuid, metric_name, value, quality, protocol) "
        "VALUES ($1, $2, 'm', 1, 'good', 'opcua')",
        *(day, agent),
    )
    found: list[int] = []

    async def take(_piece: bytes) -> None:
        await asyncio.sleep(0.3)
        found.append(niceness(pid))

    pid = await narrow.fetchval("SELECT pg_backend_pid()")
    chosen = Chosen(
        agents=None, metrics=None, start=day, end=day, level="raw", columns=("time", "value")
    )
    await ExportStore(narrow, demote_after_s=0.1).copy("plant", chosen, Layout.TABLE, take)
    assert found[-1] == 19


async def test_a_question_has_one_core(pool: Pool) -> None:
    async with QuerySlots(pool).take("read") as reader:
        assert await reader.fetchval("SHOW max_parallel_workers_per_gather") == "0"
    assert await pool.fetchval("SHOW max_parallel_workers_per_gather") != "0"


async def test_only_the_process_of_the_connection_is_demoted(
    connection: asyncpg.Connection,
) -> None:
    pid = connection.get_server_pid()
    port = await connection.fetchval("SELECT inet_client_port()")
    # As if PostgreSQL were elsewhere and a process here had the number: ours, another backend's.
    assert not demote(os.getpid(), port)
    assert not demote(pid, port - 1)
    assert not demote(pid, None)
    assert not demote(2**22 + 1, port)
    assert niceness(pid) == niceness(0)
    assert demote(pid, port)
    assert niceness(pid) == 19
