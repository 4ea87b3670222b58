"""S2: stream entries already in Redis to committed rows, by one ingestion process.

The ceiling is the same rows, encoded and sorted beforehand, by raw binary COPY over one connection
into the same table. Runs of both are interleaved; every run writes rows of its own times.

S3, with `--duplicates SHARE`: that share of the messages has been stored before. The baseline is
S2, by a second process, which never sees a duplicate.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
import uuid
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import ormsgpack
import uvloop

from harness import arguments, report
from iotistica._native import READINGS_COLUMNS, Batch, Context, encode_batch, format_topic
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis, find_redis
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.streams import Entry, Streams

TENANT = "73eddd385ce8"
METRICS = ["temperature", "humidity", "pressure", "vibration", "current"]
POINTS = 12  # of each metric in a message
STEP_MS = 100
BATCH_ROWS = 50_000
FILLED_AT_ONCE = 100  # agents, so that their rows are sorted in little space
PROGRAM = (
    "from iotistica import log\n"
    "from iotistica.ingestion.main import run\n"
    "from iotistica.settings import Settings\n"
    "log.configure('warning')\n"
    "run(Settings.load())"
)

FILL = """
INSERT INTO readings
SELECT $1::timestamptz + n * interval '1 millisecond', agent, metric, 20 + n % 100, 'good', 'C',
       'modbus', '{"device_name": "machine-1"}', NULL, NULL
FROM unnest($2::uuid[]) AS agent, unnest($3::text[]) AS metric, generate_series(0, $4 - 1) AS n
ORDER BY agent, metric, n
"""


def cpu_s(*pids: int) -> float:
    """Processor seconds that these processes of this machine have used."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> int:
    """Largest resident size that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@dataclass(frozen=True)
class Service:
    """An ingestion process, and the streams that it alone reads."""

    process: asyncio.subprocess.Process
    streams: Streams

    @classmethod
    @asynccontextmanager
    async def run(cls, database: str, redis: str, **more: str) -> AsyncIterator[Service]:
        """Start a process, and stop it at the end."""
        with tempfile.TemporaryDirectory(prefix="iotistica-bench-") as spool:
            environment = {
                "DATABASE_URL": database,
                "REDIS_URL": redis,
                "IOTISTICA_INGESTION_PORT": "0",
                "IOTISTICA_SPOOL_DIR": spool,
                # The rows are of yesterday, so that they share a day with those that are there.
                "IOTISTICA_BACKFILL_AFTER_S": "0",
            }
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM), env={**os.environ, **environment, **more}
            )
            streams = Streams(redis)
            try:
                yield cls(process, streams)
            finally:
                process.terminate()
                await process.wait()
                await streams.close()


@dataclass
class Usage:
    """Processor time of the service and of PostgreSQL, by side."""

    connection: asyncpg.Connection
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @asynccontextmanager
    async def of(self, side: str, service: Service) -> AsyncIterator[None]:
        """Add what is used meanwhile to `side`."""
        pid = service.process.pid
        service_s, server_s = cpu_s(pid), await self.server_s()
        yield
        self.seconds[f"{side}_service"] += cpu_s(pid) - service_s
        self.seconds[f"{side}_postgres"] += await self.server_s() - server_s

    async def server_s(self) -> float:
        """Backends of this database that live on this machine."""
        pids = await self.connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        )
        return cpu_s(*(row["pid"] for row in pids))

    def per_row_us(self, rows: int) -> dict[str, float]:
        """Microseconds per row, by side."""
        return {name: round(spent * 1e6 / rows, 3) for name, spent in self.seconds.items()}


@dataclass
class Bench:
    """Servers, and the fleet whose data fills them."""

    connection: asyncpg.Connection
    agents: list[str]
    start_ms: int
    options: argparse.Namespace
    turns: int = 0
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    """Topic and payload of the messages of one turn that were stored."""

    def messages(self) -> list[tuple[str, bytes]]:
        """Topic and payload of the fleet's messages of the next turn."""
        turn, fleet, count = self.turns, len(self.agents), self.options.messages
        self.turns += 1
        return [
            (
                format_topic(TENANT, agent := self.agents[number % fleet], "endpoints/modbus"),
                self.payload(turn * -(-count // fleet) + number // fleet, agent),
            )
            for number in range(count)
        ]

    def entries(self, messages: list[tuple[str, bytes]]) -> list[Entry]:
        """Messages as the bridge would batch them."""
        size = self.options.entry_messages
        fields: list[bytes] = []
        for number, (topic, payload) in enumerate(messages):
            header = f"{time.time_ns() // 1_000_000}-{number} {topic}"
            fields += [header.encode(), payload]
        return [(b"0-0", fields[at : at + 2 * size]) for at in range(0, len(fields), 2 * size)]

    def payload(self, lap: int, agent: str) -> bytes:
        """12 messages of 5 metrics, MessagePack deflated, as an agent sends them."""
        device = str(uuid.uuid5(uuid.UUID(agent), "machine-1"))
        messages = [
            {
                "protocol": "modbus",
                "deviceUuid": device,
                "deviceName": "machine-1",
                "timestamp": (at := self.start_ms + (lap * POINTS + point) * STEP_MS),
                "readings": [
                    {
                        "metric": metric,
                        "value": round(random.uniform(0, 100), 3),
                        "unit": "C",
                        "quality": "GOOD",
                        "timestamp": at,
                        "protocol": "modbus",
                    }
                    for metric in METRICS
                ],
            }
            for point in range(POINTS)
        ]
        packed = ormsgpack.packb(
            {"sensor": "machine-1", "timestamp": at, "protocol": "modbus", "messages": messages}
        )
        return zlib.compress(packed)

    @property
    def rows(self) -> int:
        return int(self.options.messages) * POINTS * len(METRICS)

    async def ceiling(self, usage: Usage, service: Service) -> float:
        """Rows per second of raw COPY."""
        context = Context(TENANT)
        context.add_agents(self.agents)
        step = max(1, BATCH_ROWS // (self.options.entry_messages * POINTS * len(METRICS)))
        entries = self.entries(self.messages())
        batches: list[Batch] = [
            encode_batch(entries[at : at + step], context, now_ms=time.time_ns() // 1_000_000)
            for at in range(0, len(entries), step)
        ]
        async with usage.of("ceiling", service):
            started = time.perf_counter()
            for batch in batches:
                await self.connection.copy_to_table(
                    "readings",
                    source=memoryview(batch.copy),
                    columns=READINGS_COLUMNS,
                    format="binary",
                )
            elapsed = time.perf_counter() - started
        assert sum(batch.rows for batch in batches) == self.rows
        return self.rows / elapsed

    async def ingestion(self, usage: Usage, service: Service, duplicates: float = 0.0) -> float:
        """Readings per second of the service; it is stopped while the stream is filled.

        `duplicates`: share of the messages that were stored before, spread evenly.
        """
        fresh = self.messages()
        steps = [int(number * duplicates) for number in range(len(fresh) + 1)]
        again = [after > before for before, after in pairwise(steps)]
        messages = [(self.sent if old else fresh)[number] for number, old in enumerate(again)]
        before = await self.count()
        service.process.send_signal(signal.SIGSTOP)
        for _, fields in self.entries(messages):
            await service.streams.add(TENANT, fields)
        async with usage.of("duplicates" if duplicates else "ingestion", service):
            started = time.perf_counter()
            service.process.send_signal(signal.SIGCONT)
            while (await service.streams.depth(TENANT)).entries:
                await asyncio.sleep(0.005)
            elapsed = time.perf_counter() - started
        stored = await self.count() - before
        assert stored == again.count(False) * POINTS * len(METRICS), "rows are lost or doubled"
        self.sent = messages
        return self.rows / elapsed

    async def count(self) -> int:
        """Rows of the times that this benchmark writes."""
        return await self.connection.fetchval(
            "SELECT count(*) FROM readings WHERE agent_uuid = ANY ($1) AND metric_name = ANY ($2) "
            "AND time >= to_timestamp($3)",
            *(self.agents, METRICS, self.start_ms / 1000),
        )


@asynccontextmanager
async def servers(options: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    """URLs of an empty database and an empty Redis."""
    directory = Path(tempfile.mkdtemp(prefix="iotistica-bench-"))
    directory.chmod(0o711)
    redis = Redis(directory / "redis", port=free_port(), password="bench", binary=find_redis())
    postgres = Postgres(
        directory / "postgres", port=free_port(), password="bench", installation=find_postgres()
    )
    await redis.start()
    if not options.database_url:
        await postgres.start()
    name = f"bench_{secrets.token_hex(4)}"
    server = options.database_url or postgres.url
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}")), redis.url
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
        await postgres.stop()
        await redis.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def prepare(database: str, options: argparse.Namespace) -> Bench:
    """Migrate, register the fleet, fill the table with its past."""
    await migrate(database)
    agents = [str(uuid.uuid4()) for _ in range(options.agents)]
    async with asyncpg.create_pool(database, min_size=0) as pool:
        store = AgentStore(pool)
        await store.ensure_tenant(TENANT)
        await store.add_agents(TENANT, [(agent, agent) for agent in agents])
    connection = await asyncpg.connect(database)
    # One day holds it all, so that new rows meet an index of that size.
    day_ms = int(time.time() // 86_400 - 1) * 86_400_000
    per_series = options.rows // (len(agents) * len(METRICS))
    if await connection.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'readings'"):
        await connection.execute("SELECT readings_make_days($1)", [day_ms // 86_400_000])
    start = await connection.fetchval("SELECT to_timestamp($1)", day_ms / 1000)
    for first in range(0, len(agents), FILLED_AT_ONCE):
        some = agents[first : first + FILLED_AT_ONCE]
        await connection.execute(FILL, start, some, METRICS, per_series)
    await connection.execute("VACUUM ANALYZE readings")
    await connection.execute("CHECKPOINT")
    return Bench(
        connection=connection,
        agents=agents,
        start_ms=day_ms + per_series + 1000,
        options=options,
    )


async def measure(options: argparse.Namespace) -> None:
    """Interleave runs of the service and of its baseline."""
    async with servers(options) as (database, redis), AsyncExitStack() as services:
        bench = await prepare(database, options)
        service = await services.enter_async_context(Service.run(database, redis))
        plain = service
        if options.duplicates:
            other = f"{redis.rpartition('/')[0]}/1"
            plain = await services.enter_async_context(Service.run(database, other))

        async def run(usage: Usage) -> tuple[float, float]:
            if not options.duplicates:
                return await bench.ingestion(usage, service), await bench.ceiling(usage, service)
            baseline = await bench.ingestion(usage, plain)
            return await bench.ingestion(usage, service, options.duplicates), baseline

        await run(Usage(bench.connection))  # they learn the fleet and their pace
        usage = Usage(bench.connection)
        runs: list[float] = []
        baselines: list[float] = []
        for _ in range(options.runs):
            value, baseline = await run(usage)
            runs.append(value)
            baselines.append(baseline)
            print(f"{value:10,.0f} readings/s; baseline {baseline:10,.0f}", flush=True)
        peak = peak_mib(service.process.pid)
        await bench.connection.close()
    report(
        bench="store",
        runs=runs,
        baselines=baselines,
        unit="rows/s",
        as_json=options.json,
        table_rows=options.rows,
        duplicates=options.duplicates,
        ingestion_peak_mib=peak,
        cpu_us_per_row=usage.per_row_us(options.runs * bench.rows),
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = arguments("stream entries in Redis to committed rows, against raw COPY")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows in the table before")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=8000, help="of 60 readings, in a run")
    parser.add_argument("--entry-messages", type=int, default=50, help="messages to an entry")
    parser.add_argument(
        "--duplicates", type=float, default=0.0, help="share of messages stored before (S3)"
    )
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
