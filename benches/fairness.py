"""How long a quiet tenant waits, alone and beside one that floods; and what idle tenants cost.

A quiet tenant sends one small entry at a time; its latency is from the reply of Redis to the entry
being committed and settled. The flood is in Redis before the service is let go, so that it always
has more. The baseline is the quiet tenant alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import signal
import statistics
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import ormsgpack
import redis.asyncio
import uvloop

from harness import arguments, report
from iotistica import keys
from iotistica._native import format_topic
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.streams import Streams
from store import PROGRAM, cpu_s, peak_mib, servers

METRICS = ("temperature", "humidity", "pressure", "vibration", "current")
ENTRY_MESSAGES = 50
IDLE_S = 10.0


@dataclass
class Sender:
    """One tenant with one agent; every reading has a time of its own."""

    streams: Streams
    tenant: str
    agent: str
    at_ms: int

    def entry(self, messages: int, points: int) -> list[bytes]:
        """Fields of one entry: messages of `points` times 5 readings, deflated MessagePack."""
        topic = format_topic(self.tenant, self.agent, "endpoints/modbus")
        fields: list[bytes] = []
        for number in range(messages):
            fields += [
                f"{time.time_ns() // 1_000_000}-{number} {topic}".encode(),
                self._payload(points),
            ]
        return fields

    def _payload(self, points: int) -> bytes:
        messages = []
        for _ in range(points):
            self.at_ms += 1
            readings = [
                {"metric": metric, "value": random.random(), "unit": "C", "timestamp": self.at_ms}
                for metric in METRICS
            ]
            messages.append({"deviceName": "machine-1", "readings": readings})
        return zlib.compress(ormsgpack.packb({"protocol": "modbus", "messages": messages}))


@dataclass(frozen=True)
class Bench:
    """The service, its servers, and who sends."""

    service: asyncio.subprocess.Process
    raw: redis.asyncio.Redis
    quiet: Sender
    flood: Sender
    options: argparse.Namespace

    async def length(self, sender: Sender) -> int:
        """Entries that are not settled."""
        return await self.raw.xlen(keys.ingestion_stream(sender.tenant))

    async def drained(self, sender: Sender) -> None:
        """Wait until everything of a tenant is settled."""
        while await self.length(sender):
            await asyncio.sleep(0.001)

    async def latency_ms(self) -> float:
        """One entry of the quiet tenant, from Redis to settled."""
        await self.quiet.streams.add(self.quiet.tenant, self.quiet.entry(1, 1))
        started = time.perf_counter()
        await self.drained(self.quiet)
        return (time.perf_counter() - started) * 1000

    async def listen(self, goes_on: Callable[[int], Awaitable[bool]]) -> list[float]:
        """Latencies of one entry after the other, at random times."""
        found: list[float] = []
        while await goes_on(len(found)):
            await asyncio.sleep(random.uniform(0, 0.05))
            found.append(await self.latency_ms())
        return found

    async def alone(self) -> list[float]:
        """Latencies while nobody else sends."""

        async def goes_on(sent: int) -> bool:
            return sent < self.options.sends

        return await self.listen(goes_on)

    async def beside(self) -> tuple[list[float], float]:
        """Latencies while another tenant floods; the rows per second that the flood gets."""
        entries = self.options.messages // ENTRY_MESSAGES
        self.service.send_signal(signal.SIGSTOP)
        for _ in range(entries):
            await self.flood.streams.add(self.flood.tenant, self.flood.entry(ENTRY_MESSAGES, 12))
        self.service.send_signal(signal.SIGCONT)
        started, ended = time.perf_counter(), 0.0

        async def goes_on(_: int) -> bool:
            nonlocal ended
            if not await self.length(self.flood):
                ended = time.perf_counter()
            return not ended

        found = await self.listen(goes_on)
        return found, entries * ENTRY_MESSAGES * 12 * len(METRICS) / (ended - started)

    async def idle_percent(self) -> float:
        """Share of one core that the service takes while nobody sends."""
        await asyncio.sleep(2)
        before = cpu_s(self.service.pid)
        await asyncio.sleep(IDLE_S)
        return (cpu_s(self.service.pid) - before) / IDLE_S * 100


@asynccontextmanager
async def started(
    database: str, redis_url: str, options: argparse.Namespace
) -> AsyncIterator[Bench]:
    """The service with `--tenants` tenants, two of which will send."""
    await migrate(database)
    streams = Streams(redis_url)
    at_ms = int(time.time() * 1000)  # older data would go the way of backfill
    senders = [Sender(streams, secrets.token_hex(6), str(uuid.uuid4()), at_ms) for _ in range(2)]
    async with asyncpg.create_pool(database, min_size=0) as pool:
        store = AgentStore(pool)
        for sender in senders:
            await store.ensure_tenant(sender.tenant)
            await store.add_agents(sender.tenant, [(sender.agent, "bench")])
        for _ in range(options.tenants - len(senders)):
            await store.ensure_tenant(secrets.token_hex(6))
    environment = {
        "DATABASE_URL": database,
        "REDIS_URL": redis_url,
        "IOTISTICA_INGESTION_PORT": "0",
    }
    environment["PYTHONPATH"] = str(options.tree / "python")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM), env={**os.environ, **environment}
    )
    raw = redis.asyncio.Redis.from_url(redis_url)
    try:
        yield Bench(process, raw, *senders, options)
    finally:
        process.terminate()
        await process.wait()
        await raw.aclose()
        await streams.close()


def quantiles(latencies: list[float]) -> tuple[float, float]:
    """p50 and p99."""
    cuts = statistics.quantiles(latencies, n=100)
    return cuts[49], cuts[98]


def show(name: str, latencies: list[float], note: str = "") -> None:
    """One row of the table."""
    middle, high = quantiles(latencies)
    print(f"{name:28} {len(latencies):6} {middle:10.1f} {high:10.1f}   {note}", flush=True)


async def measure(options: argparse.Namespace) -> None:
    """Alone and beside, in turn."""
    async with (
        servers(options) as (database, redis_url),
        started(database, redis_url, options) as bench,
    ):
        await bench.latency_ms()  # until it is there and knows the agent
        idle = await bench.idle_percent()
        print(f"{options.tenants} tenants, idle: {idle:.1f} % of a core", flush=True)
        print(f"{'quiet tenant':28} {'sends':>6} {'p50 ms':>10} {'p99 ms':>10}")
        await bench.alone()
        await bench.beside()  # both learn their pace
        alone: list[float] = []
        beside: list[float] = []
        rates: list[float] = []
        for _ in range(options.runs):
            alone.extend(found := await bench.alone())
            show("alone", found)
            found, rate = await bench.beside()
            beside.extend(found)
            rates.append(rate)
            show("beside a flood", found, f"the flood: {rate:,.0f} rows/s")
        show("alone, all runs", alone)
        show("beside a flood, all runs", beside)
        peak = peak_mib(bench.service.pid)
    report(
        bench="fairness",
        runs=[quantiles(beside)[1]],
        baselines=[quantiles(alone)[1]],
        unit="ms (p99)",
        as_json=options.json,
        p50_ms={"alone": quantiles(alone)[0], "beside": quantiles(beside)[0]},
        flood_rows_per_s=statistics.median(rates),
        tenants=options.tenants,
        idle_percent=round(idle, 2),
        ingestion_peak_mib=peak,
    )


def main() -> None:
    """Parse the command line and measure."""
    parser = arguments("latency of a quiet tenant beside one that floods")
    parser.set_defaults(runs=3)
    parser.add_argument("--tenants", type=int, default=1000, help="tenants that there are")
    parser.add_argument("--sends", type=int, default=100, help="entries of the quiet tenant alone")
    parser.add_argument("--messages", type=int, default=16_000, help="of 60 readings, in a flood")
    parser.add_argument(
        "--tree", type=Path, default=Path(__file__).parents[1], help="checkout to measure"
    )
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
