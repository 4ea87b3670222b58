"""What the planner does with the questions of docs/queries.md: short excerpts of its plans.

Sixty days of five agents, made in SQL, rolled up as in production; the last hours are not, as it is
while they are not over. With plain PostgreSQL, or TimescaleDB by `--database-url`, whose user must
be a superuser.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from harness import arguments
from iotistica.series.levels import floor
from iotistica.settings import Settings
from iotistica.store.buckets import BucketStore
from iotistica.store.metric_catalog import MetricCatalog
from iotistica.store.metric_queries import Bounds, MetricQueries
from iotistica.store.metric_queries import Question as Many
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool
from iotistica.store.query_slots import QuerySlots
from iotistica.store.rollups import Rollups
from iotistica.store.series import Question, SeriesStore
from query import END, LATEST, MARK, TENANT, database

sys.path.append(str(Path(__file__).parents[1]))
from tests.plans import Plan, Watched

AGENTS = [UUID(int=n) for n in range(1, 6)]
WIDE = UUID(int=99)
FILL = """
INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
SELECT at, $1, 'temperature', round((60 + 20 * random())::numeric, 2), 'good', 'C', 'modbus',
       '{"device_name": "press-1"}'
FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 s', '30 s') AS at
"""
SHOWN = 8
DAY = timedelta(days=1)


async def prepare(url: str, days: int) -> None:
    """Readings and rollups."""
    pool = await open_pool(
        Settings.load(database_url=url, database_statement_timeout_s=3600.0),
        application_name="explain",
    )
    start = END - days * DAY
    await pool.execute("INSERT INTO tenants (id, name) VALUES ($1, 'bench')", TENANT)
    plain = await pool.fetchval("SELECT to_regclass('rollup_marks') IS NOT NULL")
    if plain:
        first = int(start.timestamp()) // 86_400
        await pool.execute("SELECT readings_make_days($1)", list(range(first, first + days)))
    others = [UUID(int=n) for n in range(1000, 1030)]
    for agent in (*AGENTS, WIDE, *others):
        await pool.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, $3)",
            *(agent, TENANT, f"agent-{agent.int}"),
        )
    for agent in (WIDE, *others):
        await pool.execute(LATEST, agent, END, 1000)
    for agent in AGENTS:
        await pool.execute(FILL, agent, start, END, timeout=None)
        await pool.execute(
            "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
            " VALUES ($1, 'press-1', 'temperature', 'modbus', $2)",
            *(agent, END - timedelta(seconds=30)),
        )
        if plain:
            await pool.execute(MARK, agent, start, END)
    if plain:
        while await Rollups(pool).refresh(END - timedelta(minutes=30)):
            pass
    else:
        for level in ("1m", "1h", "daily"):
            await pool.execute(
                f"CALL refresh_continuous_aggregate('readings_{level}', NULL, $1::timestamptz)",
                END - timedelta(hours=1),
                timeout=None,
            )
    await pool.execute("VACUUM ANALYZE", timeout=None)
    await pool.close()


def excerpt(plans: list[Plan]) -> list[str]:
    """The scans of all statements, alike ones put together."""
    found: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    blocks: Counter[str] = Counter()
    for node in (node for plan in plans for node in nodes(plan["Plan"])):
        if "Relation Name" in node:
            line = f"{node['Node Type']} on {node['Relation Name']}"
            if name := node.get("Index Name"):
                line = f"{node['Node Type']} using {name} on {node['Relation Name']}"
            loops = node["Actual Loops"]
            line += "" if loops else " (never executed)"
            found[line] += 1
            rows[line] += int(node["Actual Rows"] * loops)
            blocks[line] += node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
    lines = [f"{line} (rows={rows[line]} buffers={blocks[line]})" for line in found]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f"… and {more} more"] if more > 0 else [])


def nodes(node: Plan) -> list[Plan]:
    """A node and those below."""
    return [node, *(one for inner in node.get("Plans", []) for one in nodes(inner))]


def questions(watched: Any, days: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What is asked, by its name."""
    slots = QuerySlots(watched)
    store, buckets, catalog = SeriesStore(watched, slots), BucketStore(slots), MetricCatalog(slots)
    last = END - timedelta(seconds=1)

    def series(span: timedelta, **more: Any) -> Callable[[], Awaitable[Any]]:
        asked = Question(
            metrics=["temperature"], protocols=None, start=END - span, end=last, limit=500, **more
        )
        return lambda: store.timeseries(TENANT, AGENTS[0], asked)

    many = Many(
        metric="temperature", agents=AGENTS, aggregator="avg", step=DAY, function="avg", filters=[]
    )
    start = floor(END - days * DAY, DAY)
    return {
        "single readings of an hour": series(timedelta(hours=1)),
        "steps of minutes, a day": series(DAY),
        "steps of hours, 7 days": series(7 * DAY, step=timedelta(hours=1)),
        f"days, {days} days": series(days * DAY, resolution="daily"),
        f"500 points, {days} days": series(days * DAY, points=500),
        "hourly of a week": lambda: buckets.buckets(
            TENANT, AGENTS[0], "temperature", level="1h", start=END - 7 * DAY, end=last
        ),
        "newest values of 1,000 series": lambda: store.latest(TENANT, WIDE),
        "catalog": lambda: catalog.metrics(TENANT, search=None, after=None, limit=100),
        f"days of five agents, {days} days": lambda: MetricQueries(slots, Bounds()).answer(
            TENANT, [many], start=start, end=last
        ),
    }


async def run(options: argparse.Namespace) -> None:
    """Ask each question twice, and show what the second one read."""
    async with database(options) as url:
        await migrate(url)
        await prepare(url, options.days)
        connection = await asyncpg.connect(url)
        watched = Watched(connection)
        await watched.start()
        for name, ask in questions(watched, options.days).items():
            await ask()
            watched.plans.clear()
            await ask()
            print(f"-- {name}")
            print("\n".join(excerpt(watched.plans)), flush=True)
        await connection.close()


def main() -> None:
    """Parse the arguments and run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
