"""Memory of ingestion while it drains an overload: entries of many tenants that wait in Redis when
it starts. Peak and last resident size, and the pace, with each environment in turn.

    python benches/memory.py --tenants 8 --messages 6000 MALLOC_ARENA_MAX= MALLOC_ARENA_MAX=2
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import asyncpg
import uvloop

from iotistica._native import format_topic
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.streams import Streams
from store import Service, peak_mib, servers

_POINTS = 60
_AGENTS = 50
"""Of each tenant."""
_IN_ENTRY = 100
_STEP_MS = 100
_READING = '{"metric":"m%d","value":%d.25,"unit":"C","quality":"good","timestamp":%%d}'


@dataclass(frozen=True)
class Drained:
    """One run."""

    peak_mib: int
    last_mib: int
    rows_per_s: float


def resident_mib(pid: int) -> int:
    """Resident size now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 >> 20


def payloads(count: int, start_ms: int) -> list[bytes]:
    """Messages of 60 readings, each later than the one before."""
    readings = ",".join(_READING % (n % 5, n) for n in range(_POINTS))
    template = f'{{"messages":[{{"deviceName":"machine-1","readings":[{readings}]}}]}}'
    step_ms = _POINTS * _STEP_MS
    firsts = (start_ms + n * step_ms for n in range(count))
    spans = (range(first, first + step_ms, _STEP_MS) for first in firsts)
    return [(template % tuple(span)).encode() for span in spans]


async def fill(streams: Streams, tenants: dict[str, list[str]], count: int, start_ms: int) -> None:
    """Put messages where the bridge would, an entry of a hundred at a time."""
    made = payloads(count // _AGENTS, start_ms)
    for tenant, agents in tenants.items():
        topics = [format_topic(tenant, agent, "endpoints/modbus").encode() for agent in agents]
        fields: list[bytes] = []
        for n in range(len(made) * len(agents)):
            header = b"%d-%d %b" % (start_ms, n, topics[n % len(agents)])
            fields += (header, made[n // len(agents)])
            if len(fields) == 2 * _IN_ENTRY:
                await streams.add(tenant, fields)
                fields = []
        if fields:
            await streams.add(tenant, fields)


async def drain(
    database: str, redis: str, connection: asyncpg.Connection, rows: int, environment: str
) -> Drained:
    """Start ingestion on what waits, until all of it is in the table."""
    pairs = (one.partition("=") for one in environment.split(","))
    more = {name: value for name, _, value in pairs if value}
    async with Service.run(database, redis, **more) as service:
        pid = service.process.pid
        query = "SELECT count(*) FROM readings"
        began, before = None, await connection.fetchval(query)
        while (now := await connection.fetchval(query) - before) < rows:
            began = began or (time.monotonic() if now else None)
            await asyncio.sleep(0.2)
        took_s = time.monotonic() - (began or 0.0)
        await asyncio.sleep(3)
        return Drained(peak_mib(pid), resident_mib(pid), rows / took_s)


async def measure(options: argparse.Namespace) -> None:
    """Every environment `runs` times, in turn."""
    async with servers(options) as (database, redis):
        await migrate(database)
        tenants = {
            f"tenant-{n:05}": [str(uuid.uuid4()) for _ in range(_AGENTS)]
            for n in range(options.tenants)
        }
        async with asyncpg.create_pool(database, min_size=0) as pool:
            for tenant, agents in tenants.items():
                await AgentStore(pool).ensure_tenant(tenant)
                await AgentStore(pool).add_agents(tenant, [(one, one) for one in agents])
        connection = await asyncpg.connect(database)
        streams = Streams(redis)
        start_ms = int(time.time() // 86_400 - 1) * 86_400_000
        per_tenant = options.messages // _AGENTS * _AGENTS
        found: dict[str, list[Drained]] = {one: [] for one in options.environments}
        for _ in range(options.runs):
            for environment in options.environments:
                await fill(streams, tenants, per_tenant, start_ms)
                start_ms += per_tenant // _AGENTS * _POINTS * _STEP_MS
                rows = per_tenant * len(tenants) * _POINTS
                one = await drain(database, redis, connection, rows, environment)
                found[environment].append(one)
                print(f"{environment:24} {one}", flush=True)
                await connection.execute("TRUNCATE readings")
        for environment, runs in found.items():
            peak, last = median(r.peak_mib for r in runs), median(r.last_mib for r in runs)
            pace = median(r.rows_per_s for r in runs)
            print(f"{environment:24} peak {peak:.0f} MiB, last {last:.0f}, {pace:,.0f} rows/s")
        await streams.close()
        await connection.close()


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--messages", type=int, default=6000, help="of each tenant")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--database-url", help="server to use instead of a private one")
    parser.add_argument("environments", nargs="+", metavar="NAME=VALUE[,…]")
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
