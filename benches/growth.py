"""S10: what must not become slower as the platform grows; each size beside its smallest one.

- `store` (S2): ingestion into a table of `--rows`, the largest against the smallest;
- `receive` (S4): messages of `--agents`, through one bridge;
- `poll` (S7): state polls of a process that knows 100,000 agents, and of one that knows 100
  (`poll.py --growth`).

All sizes take turns in one run. The figure is the rate of the worst size as a share of the rate of
the smallest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import uvloop

import receive
import store
from harness import arguments, report

POLL = Path(__file__).with_name("poll.py")
PARTS = ("store", "receive", "poll")


async def storing(options: argparse.Namespace) -> dict[str, float]:
    """Median readings a second, by rows that were in the table before."""
    async with AsyncExitStack() as stack:
        sizes = {}
        for rows in options.rows:
            of_size = argparse.Namespace(**{**vars(options), "rows": rows, "agents": 1000})
            database, redis = await stack.enter_async_context(store.servers(of_size))
            bench = await store.prepare(database, of_size)
            say(f"a table of {rows:,} rows is there")
            service = await stack.enter_async_context(store.Service.run(database, redis))
            sizes[f"{rows:,} rows"] = bench, service
        runs: dict[str, list[float]] = {name: [] for name in sizes}
        for turn in range(options.runs + 1):
            for name, (bench, service) in sizes.items():
                value = await bench.ingestion(store.Usage(bench.connection), service)
                if turn:  # in the first they learn the fleet and their pace
                    runs[name].append(value)
                    say(f"{value:10,.0f} readings/s with {name}")
        for bench, _ in sizes.values():
            await bench.connection.close()
        return medians(runs)


async def receiving(options: argparse.Namespace) -> dict[str, float]:
    """Median messages a second, by agents that send them."""
    of_size = argparse.Namespace(
        agents=1, messages=options.received_messages, bytes=1024, broker="auto"
    )
    async with receive.servers(of_size) as bench:
        runs: dict[str, list[float]] = {f"{agents:,} agents": [] for agents in options.agents}
        for turn in range(options.runs + 1):
            for agents in options.agents:
                value = await replace(bench, topics=receive.topics(agents)).bridge()
                if turn:
                    runs[f"{agents:,} agents"].append(value)
                    cpu_us = bench.cpu["bridge"][-1]
                    say(f"{value:10,.0f} messages/s of {agents:,} agents, {cpu_us:.1f} us each")
        return medians(runs)


def polling(options: argparse.Namespace) -> dict[str, float]:
    """Median polls a second, by agents that the process knows."""
    agents = options.polling_agents
    command = [sys.executable, POLL, "--growth", "--json"]
    numbers = ["--agents", str(agents), "--runs", str(options.runs)]
    printed = subprocess.run([*command, *numbers], check=True, capture_output=True, text=True)
    found = json.loads(printed.stdout.splitlines()[-1])
    return {"100 agents": found["baseline"], f"{agents:,} agents": found["value"]}


def medians(runs: Mapping[str, list[float]]) -> dict[str, float]:
    """Of each size."""
    return {name: statistics.median(values) for name, values in runs.items()}


def say(what: str) -> None:
    """Progress, for people."""
    print(what, file=sys.stderr, flush=True)


async def run(options: argparse.Namespace) -> None:
    """Measure what is asked for, one part after the other."""
    found: dict[str, dict[str, float]] = {}
    for part in options.part or PARTS:
        match part:
            case "store":
                found[part] = await storing(options)
            case "receive":
                found[part] = await receiving(options)
            case _:
                found[part] = polling(options)
    shares = {}
    for part, sizes in found.items():
        smallest = next(iter(sizes.values()))
        shares[part] = round(min(sizes.values()) / smallest, 3)
        for name, value in sizes.items():
            print(f"{part:>8}: {value:>9,.0f}/s with {name:>16} ({value / smallest:.2f})")
    report(
        bench="growth",
        runs=[min(shares.values())],
        baselines=[1.0],
        unit="of the smallest",
        as_json=options.json,
        shares=shares,
        medians={p: {n: round(v) for n, v in sizes.items()} for p, sizes in found.items()},
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = arguments(__doc__ or "")
    sizes = {"type": int, "nargs": "+"}
    parser.add_argument("--part", choices=PARTS, nargs="+", help="(default: all)")
    parser.add_argument("--rows", **sizes, default=[10_000_000, 100_000_000])
    parser.add_argument("--messages", type=int, default=8000, help="of 60 readings, in a run")
    parser.add_argument("--entry-messages", type=int, default=50, help="messages to an entry")
    parser.add_argument("--agents", **sizes, default=[1, 100, 10_000], help="that send")
    parser.add_argument("--received-messages", type=int, default=200_000, help="in a run")
    parser.add_argument("--polling-agents", type=int, default=100_000)
    parser.add_argument("--database-url", help="server to use instead of private ones")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
