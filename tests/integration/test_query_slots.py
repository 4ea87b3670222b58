"""Bounds of questions, on both storage profiles: time, and connections."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest
from tests.rest import Rest, open_rest

from iotistica.errors import Busy, DatabaseUnavailable, TooSlow
from iotistica.store.pool import Pool, use_of
from iotistica.store.query_slots import QuerySlots
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
