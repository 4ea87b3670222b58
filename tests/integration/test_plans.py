"""What questions read, on both storage profiles: by the plans of their statements."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.integration.test_rollups import has_marks, refresh
from tests.plans import Watched

from iotistica.store.metric_catalog import MetricCatalog, Wanted
from iotistica.store.metric_queries import Bounds, MetricQueries
from iotistica.store.metric_queries import Question as Many
from iotistica.store.pool import Pool
from iotistica.store.query_slots import QuerySlots
from iotistica.store.series import Question, SeriesStore

TENANT = "0123456789ab"
AGENTS = [uuid.UUID(int=n) for n in range(1, 6)]
START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = 10
END = START + timedelta(days=DAYS)


@pytest.fixture
async def watched(pool: Pool, connection: asyncpg.Connection) -> Watched:
    """Ten days of five agents, their rollups made; what is asked is watched."""
    await connection.execute("INSERT INTO tenants VALUES ($1, 'plans')", TENANT)
    for agent in AGENTS:
        await connection.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, $3)",
            *(agent, TENANT, f"agent-{agent.int}"),
        )
    if await has_marks(connection):
        first = int(START.timestamp()) // 86_400
        await connection.execute("SELECT readings_make_days($1)", [*range(first, first + DAYS)])
        await connection.execute(
            "INSERT INTO rollup_marks (hour, agent_uuid) SELECT h, a FROM unnest($1::uuid[]) AS a,"
            " generate_series($2::timestamptz, $3::timestamptz - interval '1 h', '1 h') AS h",
            *(AGENTS, START, END),
        )
    await connection.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
        SELECT t, a, 'speed', random(), 'good', 'm/s', 'modbus', '{"device_name": "x"}'
        FROM unnest($1::uuid[]) AS a,
             generate_series($2::timestamptz, $3::timestamptz - interval '1 s', '10 min') AS t
        """,
        *(AGENTS, START, END),
    )
    await connection.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
        " SELECT a, 'device-' || n, 'speed', 'modbus', $2::timestamptz"
        " FROM unnest($1::uuid[]) AS a, generate_series(1, 200) AS n",
        *(AGENTS, END),
    )
    await refresh(pool, connection, END + timedelta(days=2))
    await connection.execute("ANALYZE")
    watched = Watched(connection)
    await watched.start()
    return watched


def slots(watched: Any) -> QuerySlots:
    return QuerySlots(watched)


async def series(watched: Any, start: datetime, end: datetime, **more: Any) -> None:
    asked = Question(
        metrics=["speed"],
        protocols=None,
        start=start,
        end=end - timedelta(seconds=1),
        limit=500,
        **more,
    )
    found = await SeriesStore(watched, slots(watched)).timeseries(TENANT, AGENTS[0], asked)
    assert found is not None
    assert found.rows


async def parts_of(connection: asyncpg.Connection, parent: str) -> set[str]:
    """Partitions or chunks that hold the rows of a table or a continuous aggregate."""
    if await has_marks(connection):
        rows = await connection.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass",
            parent,
        )
        return {row[0] for row in rows}
    rows = await connection.fetch(
        """
        SELECT chunk_name FROM timescaledb_information.chunks
        WHERE hypertable_name = coalesce((
            SELECT materialization_hypertable_name
            FROM timescaledb_information.continuous_aggregates WHERE view_name = $1
        ), $1)
        """,
        parent,
    )
    return {row[0] for row in rows}


async def test_a_long_range_reads_no_readings(
    watched: Watched, connection: asyncpg.Connection
) -> None:
    """Not one partition or chunk of them, neither by index nor otherwise."""
    readings = await parts_of(connection, "readings")
    assert len(readings) == DAYS
    for how in ({"resolution": "daily"}, {"resolution": "1h"}, {"points": 30}):
        watched.plans.clear()
        await series(watched, START, END, **how)
        assert any(re.match(r"rollup_|_hyper_", name) for name in watched.relations())
        assert not readings & set(watched.relations())
    watched.plans.clear()
    asked = Many(
        metric="speed",
        agents=AGENTS,
        aggregator="avg",
        step=timedelta(days=1),
        function="avg",
        filters=[],
    )
    [found] = await MetricQueries(slots(watched), Bounds()).answer(
        TENANT, [asked], start=START, end=END - timedelta(seconds=1)
    )
    assert [len(one.points) for one in found] == [DAYS] * len(AGENTS)
    assert not readings & set(watched.relations())


async def test_a_day_reads_its_own_part_by_an_index(
    watched: Watched, connection: asyncpg.Connection
) -> None:
    """Of the others not one is even planned."""
    plain = await has_marks(connection)
    readings = await parts_of(connection, "readings")
    minutes = await parts_of(connection, "rollup_1m" if plain else "readings_1m")
    day = START + timedelta(days=7)
    for resolution, parts in (("raw", readings), ("1m", minutes)):
        watched.plans.clear()
        await series(watched, day, day + timedelta(hours=6), resolution=resolution)
        planned = {node["Relation Name"] for node in watched.nodes() if "Relation Name" in node}
        [name] = planned & (readings | minutes)
        assert name in parts
        assert watched.relations()[name]["Node Type"] != "Seq Scan"


async def test_newest_values_never_touch_readings(
    watched: Watched, connection: asyncpg.Connection
) -> None:
    rows = await SeriesStore(watched, slots(watched)).latest(TENANT, AGENTS[0])  # type: ignore[arg-type]
    assert rows is not None
    assert len(rows) == 200
    catalog = MetricCatalog(slots(watched))
    assert await catalog.latest(TENANT, Wanted(), after=None, limit=1000)
    assert await catalog.metrics(TENANT, search=None, after=None, limit=100)
    assert await catalog.agents(TENANT, after=None, limit=100)
    planned = {node["Relation Name"] for node in watched.nodes() if "Relation Name" in node}
    assert planned == {"agents", "readings_latest"}
