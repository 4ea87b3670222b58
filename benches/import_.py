"""`iotistica import` of CSV and of Parquet, against raw COPY of the same rows into the same table.

The command runs as a process of its own. Every run writes rows of its own times; then it runs again
on the same file, which stores nothing. The baseline is `COPY readings FROM STDIN (FORMAT csv)` over
one connection, as one would do it by hand: it checks no name, agent, time or limit, keeps no newest
value, marks no rollup, and a single row that is there already ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from harness import arguments, report
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from store import peak_mib, servers

TENANT = "73eddd385ce8"
METRICS = ["temperature", "humidity", "pressure", "vibration", "current"]
COLUMNS = ("time", "agent_uuid", "metric_name", "value", "quality", "unit", "protocol")


@dataclass
class Bench:
    """A database with a fleet."""

    connection: asyncpg.Connection
    environment: dict[str, str]
    agents: list[str]
    directory: Path
    options: argparse.Namespace
    turns: int = 0
    peak_mib: int = 0

    def rows(self) -> list[tuple[Any, ...]]:
        """Rows of the next turn in the order of their times, as a historian dumps them."""
        series = [(agent, metric) for agent in self.agents for metric in METRICS]
        laps = self.options.rows // len(series)
        start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start += timedelta(days=-20 + self.turns * self.options.days)
        step = timedelta(days=self.options.days) / laps
        self.turns += 1
        return [
            (start + lap * step, *one, round(random.gauss(50, 9), 3), "good", "C", "modbus")
            for lap in range(laps)
            for one in series
        ]

    def write_csv(self, rows: list[tuple[Any, ...]]) -> Path:
        path = self.directory / "rows.csv"
        with path.open("w", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(COLUMNS)
            writer.writerows((time.isoformat(), *rest) for time, *rest in rows)
        return path

    def write_parquet(self, rows: list[tuple[Any, ...]]) -> Path:
        import pyarrow
        import pyarrow.parquet

        path = self.directory / "rows.parquet"
        columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return path

    async def imported(self, path: Path) -> dict[str, Any]:
        """What the command says of a file."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "iotistica", "import", str(path), "--tenant", TENANT, "--json"),
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
        )
        talk = asyncio.create_task(process.communicate())
        while not (await asyncio.wait([talk], timeout=0.05))[0]:
            with suppress(FileNotFoundError, StopIteration):  # it has just ended
                self.peak_mib = max(self.peak_mib, peak_mib(process.pid))
        printed, _ = talk.result()
        assert process.returncode == 0, printed
        return dict(json.loads(printed))

    async def copied(self, path: Path) -> float:
        """Seconds of raw COPY."""
        days = range(self.options.days)
        start = int(time.time() // 86_400) - 20 + (self.turns - 1) * self.options.days
        if await self.connection.fetchval(
            "SELECT relkind = 'p' FROM pg_class WHERE relname = 'readings'"
        ):
            await self.connection.execute(
                "SELECT readings_make_days($1)", [start + day for day in days]
            )
        started = time.perf_counter()
        with path.open("rb") as source:
            await self.connection.copy_to_table(
                "readings", source=source, columns=COLUMNS, format="csv", header=True
            )
        return time.perf_counter() - started


async def measure(options: argparse.Namespace) -> None:
    """Interleave both forms and the baseline."""
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="iotistica-bench-") as directory:
        async with servers(options) as (database, redis):
            await migrate(database)
            agents = [str(uuid.uuid4()) for _ in range(options.agents)]
            async with asyncpg.create_pool(database, min_size=0) as pool:
                store = AgentStore(pool)
                await store.ensure_tenant(TENANT)
                await store.add_agents(TENANT, [(agent, agent) for agent in agents])
            connection = await asyncpg.connect(database)
            environment = {**os.environ, "DATABASE_URL": database, "REDIS_URL": redis}
            bench = Bench(connection, environment, agents, Path(directory), options)
            for _ in range(options.runs):
                await run(bench, rates)
            await connection.close()
    report(
        bench="import",
        runs=rates["csv"],
        baselines=rates["copy"],
        unit="rows/s",
        as_json=options.json,
        parquet=round(sorted(rates["parquet"])[len(rates["parquet"]) // 2]),
        again=round(sorted(rates["again"])[len(rates["again"]) // 2]),
        rows=options.rows,
        peak_mib=bench.peak_mib,
    )


async def run(bench: Bench, rates: dict[str, list[float]]) -> None:
    """One of each, with rows of its own."""
    for name, write in (("csv", bench.write_csv), ("parquet", bench.write_parquet)):
        rows = bench.rows()
        path = write(rows)
        for again in (False, True) if name == "csv" else (False,):
            said = await bench.imported(path)
            assert said["duplicate" if again else "stored"] == len(rows), said
            rates["again" if again else name].append(len(rows) / said["seconds"])
    rows = bench.rows()
    rates["copy"].append(len(rows) / await bench.copied(bench.write_csv(rows)))
    print({name: f"{some[-1]:,.0f}" for name, some in rates.items()}, flush=True)


def main() -> None:
    """Parse the command line and measure."""
    parser = arguments("files of CSV and Parquet to committed rows, against raw COPY")
    parser.add_argument("--rows", type=int, default=500_000, help="in a file")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--days", type=int, default=1, help="that a file covers")
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
