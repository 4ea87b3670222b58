"""Tenants keep less than the platform: what is removed, and what stays, on both profiles."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.stored import LEVELS, NOW, PER_DAY, is_plain, measure, refresh, rule, sweep

from iotistica.retention import Rule, governing
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.retention import Retention
from iotistica.store.turn import turn

FIRST = datetime(2026, 3, 4, tzinfo=UTC)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors/retention.json").read_text())


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


async def test_one_process_at_a_time_and_none_waits(pool: Pool, tenant: str, agent: str) -> None:
    await rule(pool, tenant, "*", 3)
    async with turn(pool, "retention"):
        swept = await Retention(pool, Settings()).sweep(NOW)
    assert (sum(swept.removed.values()), swept.is_done) == (0, True), "there is nothing to do here"
    assert await sweep(pool) == 2 * 3 * PER_DAY


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


async def test_postgresql_and_python_agree_on_which_rule_counts(pool: Pool, tenant: str) -> None:
    await AgentStore(pool).ensure_tenant(tenant)
    for pattern, metric, fits in VECTORS["fits"]:
        found = await pool.fetchval("SELECT $2 LIKE retention_like($1)", pattern, metric)
        assert found is fits, (pattern, metric)
    for case in VECTORS["governs"]:
        await pool.execute("DELETE FROM retention_rules")
        for pattern, keep_days in case["rules"]:
            await rule(pool, tenant, pattern, keep_days)
        counts = "SELECT (retention_rule($1, $2)).pattern"
        assert await pool.fetchval(counts, tenant, case["metric"]) == case["governs"], case
    choose = random.Random(5)
    rules = {"".join(choose.choices("ab*?", k=choose.randint(1, 5))) for _ in range(60)}
    given = [Rule(pattern=one, keep_days=choose.randint(1, 3)) for one in sorted(rules)]
    await pool.execute("DELETE FROM retention_rules")
    for one in given:
        await rule(pool, tenant, one.pattern, one.keep_days)
    for _ in range(200):
        metric = "".join(choose.choices("ab*?", k=choose.randint(1, 5)))
        counts = "SELECT (retention_rule($1, $2)).pattern"
        expected = governing(given, metric)
        assert await pool.fetchval(counts, tenant, metric) == (expected and expected.pattern)


async def test_another_tenant_is_not_touched(pool: Pool, tenant: str, agent: str) -> None:
    other = str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant("ffffffffffff")
    await AgentStore(pool).add_agents("ffffffffffff", [(other, "other")])
    await measure(pool, other, "temp", FIRST)
    await rule(pool, tenant, "*", 1)
    await sweep(pool)
    assert await days_of(pool, other, "temp") == {4: 72}
    assert sorted(await days_of(pool, agent, "temp")) == [9]
