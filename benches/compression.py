"""What compression saves, and what late data costs where it meets compressed days (TimescaleDB).

The values have the entropy of real sensors: noise of two to four decimals on a slow wave, times
that jitter by seconds. Late rows lie between those that are there, so that no compressed batch can
be left out by its bounds; they are merged as ingestion merges rows of which any may be there. The
baseline is the same into a day that is not compressed.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from harness import arguments, report
from iotistica.store.migrate import migrate

TENANT = "73eddd385ce8"
METRICS = ["temperature", "vibration", "pressure"]
STEP = timedelta(seconds=20)
STEPS = 86_400 // 20
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS = {"compressed": TODAY - timedelta(days=20), "open": TODAY - timedelta(days=19)}

FILL = """
INSERT INTO readings
SELECT $1::timestamptz + n * interval '20 s' + (random() * 5000)::int * interval '1 ms',
       agent, metric,
       CASE metric
           WHEN 'temperature' THEN round((60 + 20 * sin(n / 100.0) + random())::numeric, 2)
           WHEN 'vibration' THEN round((random() * random() * 10)::numeric, 4)
           ELSE round((1000 + 50 * random())::numeric, 1)
       END,
       'good',
       CASE metric WHEN 'temperature' THEN 'C' WHEN 'vibration' THEN 'mm/s' ELSE 'hPa' END,
       'modbus', '{"device_name": "machine-1"}', NULL, NULL
FROM unnest($2::uuid[]) AS agent, unnest($3::text[]) AS metric, generate_series(0, $4 - 1) AS n
ORDER BY n, agent
"""
CHUNK = """
SELECT format('%I.%I', chunk_schema, chunk_name) FROM timescaledb_information.chunks
WHERE hypertable_name = 'readings' AND range_start = $1
"""
SIZES = """
SELECT before_compression_total_bytes AS before, after_compression_total_bytes AS after
FROM hypertable_compression_stats('readings')
"""
STAGE = "CREATE TEMP TABLE late (LIKE readings INCLUDING DEFAULTS)"
LATE = """
INSERT INTO late
SELECT $1::timestamptz + n * interval '20 s' + $5::interval, agent, metric, 1.5, 'good', 'C',
       'modbus', '{}', NULL, NULL
FROM unnest($2::uuid[]) AS agent, unnest($3::text[]) AS metric, generate_series(1, $4) AS n
"""
AGAIN = """
INSERT INTO late SELECT * FROM readings WHERE time >= $1 AND time < $1 + $2 * interval '20 s'
"""
MERGE = """
INSERT INTO readings SELECT * FROM late
ON CONFLICT (agent_uuid, metric_name, time) DO NOTHING
"""


async def merge(connection: asyncpg.Connection) -> float:
    """Rows per second of what is staged."""
    rows = await connection.fetchval("SELECT count(*) FROM late")
    started = time.perf_counter()
    await connection.execute(MERGE, timeout=600)
    elapsed = time.perf_counter() - started
    await connection.execute("TRUNCATE late")
    return rows / elapsed


async def measure(connection: asyncpg.Connection, options: argparse.Namespace) -> None:
    """Fill two days, compress one, and add late rows to both in turns."""
    agents = [UUID(int=number + 1) for number in range(options.agents)]
    await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'bench')", TENANT)
    await connection.executemany(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'bench')",
        [(agent, TENANT) for agent in agents],
    )
    for day in DAYS.values():
        await connection.execute(FILL, day, agents, METRICS, STEPS, timeout=3600)
    await connection.execute("VACUUM ANALYZE readings", timeout=3600)
    chunk = await connection.fetchval(CHUNK, DAYS["compressed"])
    await connection.execute(f"SELECT compress_chunk('{chunk}')", timeout=3600)
    sizes = await connection.fetchrow(SIZES)
    saved = 1 - sizes["after"] / sizes["before"]
    print(f"{options.agents * 3 * STEPS:,} rows: {sizes['before'] / 2**20:.0f} MiB are now "
          f"{sizes['after'] / 2**20:.1f} MiB, {saved:.1%} saved")  # fmt: skip
    await connection.execute(STAGE)
    rates: dict[str, list[float]] = {}
    for turn in range(options.runs):
        for name, day in DAYS.items():
            for points in options.points:
                offset = timedelta(milliseconds=7000 + 13 * turn)
                await connection.execute(LATE, day, agents, METRICS, points, offset)
                rates.setdefault(f"{name} late {points}", []).append(await merge(connection))
            await connection.execute(AGAIN, day, max(options.points))
            rates.setdefault(f"{name} again", []).append(await merge(connection))
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:>24}: {value:>9,} rows/s")
    largest = f"late {max(options.points)}"
    report(
        bench="compression",
        runs=rates[f"compressed {largest}"],
        baselines=rates[f"open {largest}"],
        unit="rows/s",
        as_json=options.json,
        saved=round(saved, 4),
        medians=medians,
    )


async def run(options: argparse.Namespace) -> None:
    """In a database of its own."""
    name = f"bench_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(options.database_url)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        url = urlunsplit(urlsplit(options.database_url)._replace(path=f"/{name}"))
        await migrate(url)
        connection = await asyncpg.connect(url)
        await measure(connection, options)
        await connection.close()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


def main() -> None:
    """Parse the arguments and run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--database-url", required=True, help="server with TimescaleDB")
    parser.add_argument("--agents", type=int, default=300)
    parser.add_argument(
        "--points", type=int, nargs="+", default=[1, 10, 100], help="late rows of each series"
    )
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
