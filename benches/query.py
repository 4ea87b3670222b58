"""S8 and S9: one series of 1 Hz over a year as 500 points, and the newest values of 1,000 series.

The baseline of S8 is the same steps, computed from the raw rows. Both go through the store that the
API uses, over one connection. The year is made in SQL; with plain PostgreSQL its rollups are made
by the chore that does it in production, with TimescaleDB (`--database-url`) by a refresh.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import uvloop

from harness import arguments, report
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.series.levels import ORIGIN
from iotistica.settings import Settings
from iotistica.store.migrate import migrate
from iotistica.store.pool import Pool, open_pool
from iotistica.store.rollups import Rollups
from iotistica.store.series import Question, SeriesStore

TENANT = "73eddd385ce8"
AGENT, WIDE = UUID(int=1), UUID(int=2)
"""One series of a year, and many series of which the newest values are known."""
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

AGENTS = "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $3, 'year'), ($2, $3, 'wide')"
FILL = """
INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
SELECT at, $1, 'temperature',
       round((60 + 20 * sin(extract(epoch FROM at) / 7000) + random())::numeric, 2),
       'good', 'C', 'modbus', '{"device_name": "press-1"}'
FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 s', '1 s') AS at
"""
MARK = """
INSERT INTO rollup_marks (hour, agent_uuid)
SELECT hour, $1
FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 h', '1 h') AS hour
"""
LATEST = """
INSERT INTO readings_latest
    (agent_uuid, device_name, metric_name, value, quality, unit, protocol, time)
SELECT $1, 'device-' || n % 20, 'metric-' || n, n, 'good', 'C', 'modbus', $2
FROM generate_series(1, $3) AS n
"""
RAW = """
SELECT date_bin($5, time, $6) AS step, avg(value), min(value), max(value), count(*)
FROM readings
WHERE agent_uuid = $1 AND metric_name = $2 AND time >= $3 AND time < $4
GROUP BY 1 ORDER BY 1 DESC
"""


@asynccontextmanager
async def database(options: argparse.Namespace) -> AsyncIterator[str]:
    """URL of an empty database."""
    directory = Path(tempfile.mkdtemp(prefix="iotistica-bench-"))
    directory.chmod(0o711)
    postgres = Postgres(
        directory / "postgres", port=free_port(), password="bench", installation=find_postgres()
    )
    if not options.database_url:
        await postgres.start()
    server, name = options.database_url or postgres.url, f"bench_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
        await postgres.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def prepare(pool: Pool, days: int, series: int) -> bool:
    """Make the year and its rollups; whether readings are partitions of plain PostgreSQL."""
    start, month = END - timedelta(days=days), timedelta(days=30)
    await pool.execute("INSERT INTO tenants (id, name) VALUES ($1, 'bench')", TENANT)
    await pool.execute(AGENTS, AGENT, WIDE, TENANT)
    await pool.execute(LATEST, WIDE, END, series)
    await pool.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
        " VALUES ($1, 'press-1', 'temperature', 'modbus', $2)",
        *(AGENT, END - timedelta(seconds=1)),
    )
    plain = await pool.fetchval("SELECT to_regclass('rollup_marks') IS NOT NULL")
    if plain:
        first = int(start.timestamp()) // 86_400
        await pool.execute("SELECT readings_make_days($1)", list(range(first, first + days)))
    at = start
    while at < END:
        await pool.execute(FILL, AGENT, at, min(at + month, END), timeout=None)
        at += month
        say(f"{(at - start).days} days of raw rows")
    if plain:
        await pool.execute(MARK, AGENT, start, END)
        # As it is while the day is not over: the last hours are answered from raw rows.
        while await Rollups(pool).refresh(END - timedelta(minutes=30)):
            say(f"{await pool.fetchval('SELECT count(*) FROM rollup_1h')} hours rolled up")
    else:
        for level in ("1m", "1h", "daily"):
            await pool.execute(
                f"CALL refresh_continuous_aggregate('readings_{level}', NULL, $1::timestamptz)",
                END - timedelta(hours=1),
                timeout=None,
            )
            say(f"readings_{level} refreshed")
    await pool.execute("VACUUM ANALYZE", timeout=None)
    return bool(plain)


def say(what: str) -> None:
    """Progress, for people."""
    print(what, file=sys.stderr, flush=True)


async def times(work: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, after one that is not counted."""
    await work()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        await work()
        found.append((time.perf_counter() - start) * 1000)
    return found


def p95(values: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


async def run(options: argparse.Namespace) -> None:
    """Measure both."""
    async with database(options) as url:
        await migrate(url)
        pool = await open_pool(
            # The baseline takes longer than any query may.
            Settings.load(
                database_url=url, database_pool_size=2, database_statement_timeout_s=3600.0
            ),
            application_name="bench",
        )
        plain = await prepare(pool, options.days, options.series)
        store, span = SeriesStore(pool), timedelta(days=options.days)
        question = Question(
            metrics=["temperature"],
            protocols=None,
            start=END - span,
            end=END - timedelta(microseconds=1),
            limit=options.points,
            points=options.points,
        )
        answer = await store.timeseries(TENANT, AGENT, question)
        assert answer is not None
        plan = answer.plan
        say(f"{len(answer.rows)} points from {plan.level}, {plan.step} each")

        async def ask() -> None:
            await store.timeseries(TENANT, AGENT, question)

        async def ask_raw() -> None:
            bounds = (END - span, END, plan.step, ORIGIN)
            await pool.fetch(RAW, AGENT, "temperature", *bounds, timeout=None)

        async def ask_latest() -> None:
            rows = await store.latest(TENANT, WIDE)
            assert rows is not None
            assert len(rows) == options.series

        latest = await times(ask_latest, options.queries)
        runs = [await times(ask, options.queries) for _ in range(options.runs)]
        baselines = await times(ask_raw, options.raw_runs)
        series = [value for some in runs for value in some]
        print(f"S8: p50 {statistics.median(series):.1f} ms, p95 {p95(series):.1f} ms")
        print(f"S9: p50 {statistics.median(latest):.1f} ms, p95 {p95(latest):.1f} ms")
        report(
            bench="query",
            runs=series,
            baselines=baselines,
            unit="ms",
            as_json=options.json,
            p95_ms=round(p95(series), 2),
            points=len(answer.rows),
            level=plan.level,
            rows=await pool.fetchval("SELECT count(*) FROM readings", timeout=None),
            times_faster=round(statistics.median(baselines) / statistics.median(series)),
            latest_series=options.series,
            latest_p95_ms=round(p95(latest), 2),
            profile="plain" if plain else "timescale",
        )
        await pool.close()


def main() -> None:
    """Parse the arguments and run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument(
        "--series", type=int, default=1000, help="of which the newest are asked for"
    )
    parser.add_argument("--queries", type=int, default=40, help="in a run")
    parser.add_argument("--raw-runs", type=int, default=3, help="of the baseline")
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
