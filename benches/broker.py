"""Broker: QoS 1 publishes through a shared subscription, ours against Mosquitto.

Each round starts both on fresh directories, one after the other. Ours writes every message to
disk before it acknowledges; Mosquitto acknowledges from memory and saves every few seconds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import tempfile
from pathlib import Path

import harness
from iotistica.credentials import User
from iotistica.embedded.broker import Broker, find_broker
from iotistica.embedded.ports import free_port

ROOT = Path(__file__).parents[1]


def build() -> Path:
    """The load generator: a Rust example, cheap enough to leave the cores to the broker."""
    command = ["cargo", "build", "--quiet", "--release", "--package", "iotistica-broker"]
    subprocess.run([*command, "--example", "load"], cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "examples" / "load"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(load: Path, name: str, arguments: list[str]) -> tuple[float, float]:
    """Messages per second, and CPU microseconds of the broker per message."""
    with tempfile.TemporaryDirectory(prefix="iotistica-bench-") as directory:
        broker = Broker(Path(directory), port=free_port(), program=find_broker(name))
        await broker.start()
        try:
            password = secrets.token_urlsafe()
            await broker.add_users({"load": User(password, ("readwrite i/#",))})
            pid = broker.child.pid or 0
            before = cpu_seconds(pid)
            command = [str(load), str(broker.port), "load", password, *arguments]
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            shown, _ = await process.communicate()
            if process.returncode:
                raise SystemExit(f"the load on {name} failed")
            return float(shown), (cpu_seconds(pid) - before) / int(arguments[0]) * 1e6
        finally:
            await broker.stop()


def main() -> None:
    parser = harness.arguments(__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1024)
    parser.add_argument("--publishers", type=int, default=4)
    options = parser.parse_args()
    load = build()
    arguments = [str(options.messages), str(options.bytes), str(options.publishers)]
    rates: dict[str, list[float]] = {"builtin": [], "mosquitto": []}
    costs: dict[str, list[float]] = {"builtin": [], "mosquitto": []}
    for _ in range(options.runs):
        for name in rates:
            rate, cost = asyncio.run(measure(load, name, arguments))
            rates[name].append(rate)
            costs[name].append(cost)
    median = {name: round(statistics.median(values), 1) for name, values in costs.items()}
    print(f"CPU of the broker per message: {median} µs")
    harness.report(
        bench="broker",
        runs=rates["builtin"],
        baselines=rates["mosquitto"],
        unit="messages/s",
        as_json=options.json,
        cpu_us_per_message=median,
        payload_bytes=options.bytes,
        publishers=options.publishers,
    )


if __name__ == "__main__":
    main()
