"""S5 and S11: publish to committed row on one machine, and the memory of the services meanwhile.

The whole platform of `iotistica up`, and `iotistica simulate --verify` as the load, at a fixed rate
or as fast as the broker takes it. Everything shares the machine, the load generator included.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import arguments, machine

COMMAND = (sys.executable, "-m", "iotistica")
READINGS = 60
PERIOD_S = 1.0
MIB = 1 << 20
ROLES = {
    "iotistica.api.bridge": "bridge",
    "iotistica.api.control": "control",
    "iotistica.api.robyn_app": "web",
}


def processes(root: int) -> dict[str, int]:
    """Our processes below `root`, by role."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children[int(rest[1])].append(pid)
    found, queue = {}, [root]
    while queue:
        pid = queue.pop()
        queue += children[pid]
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        for part in line:
            if part in ROLES:
                found[ROLES[part]] = pid
        if line[1:4] == ["-m", "iotistica", "ingestion"]:
            found["ingestion"] = pid
    return found


def resident_mib(pid: int) -> float:
    """Memory that a process has to itself or shares."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MIB


async def watch(pids: dict[str, int], samples: dict[str, list[float]]) -> None:
    """Sample the memory of every process, until cancelled."""
    while True:
        for name, pid in pids.items():
            samples[name].append(resident_mib(pid))
        await asyncio.sleep(PERIOD_S)


async def load(directory: Path, options: Any) -> tuple[dict[str, Any], dict[str, Any], float]:
    """Summary and verdict of the fleet, and the seconds until all was verified."""
    rate = ("--rate", str(options.rate)) if options.rate else ()
    amount = (
        ("--duration", str(options.seconds))
        if options.rate
        else ("--messages", str(options.messages))
    )
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "simulate", "--data-dir", str(directory), "--verify", "--json"),
        *("--agents", str(options.agents), "--format", options.format, *rate, *amount),
        *("--readings-per-message", str(options.readings)),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    summary, verdict = (json.loads(line) for line in output.splitlines())
    return summary, verdict, time.perf_counter() - started


async def measure(options: Any) -> dict[str, Any]:
    """One run."""
    directory = Path(tempfile.mkdtemp(prefix="iotistica-bench-"))
    # The servers run as another user where this one is root.
    directory.chmod(0o711)
    up = await asyncio.create_subprocess_exec(
        *(*COMMAND, "up", "--json", "--data-dir", str(directory)),
        *("--api-port", "0", "--ingestion-port", "0"),
        stdout=subprocess.PIPE,
        env={**os.environ, "IOTISTICA_BROKER": options.broker},
    )
    assert up.stdout is not None
    try:
        assert await up.stdout.readline()
        samples: dict[str, list[float]] = defaultdict(list)
        watching = asyncio.create_task(watch(processes(up.pid), samples))
        summary, verdict, seconds = await load(directory, options)
        watching.cancel()
    finally:
        up.send_signal(signal.SIGINT)
        await up.wait()
        shutil.rmtree(directory, ignore_errors=True)
    assert (verdict["lost"], verdict["doubled"]) == (0, 0), verdict
    return {
        "value": round(summary["readings"] / summary["seconds"]),
        "seconds": round(summary["seconds"], 1),
        "until_verified_s": round(seconds, 1),
        "verdict": verdict,
        "memory_mib": {name: figures(values) for name, values in samples.items()},
    }


def figures(values: list[float]) -> dict[str, float]:
    """Largest, and the medians of the second and of the last quarter: flat, or not."""
    quarter = max(len(values) // 4, 1)
    return {
        "largest": round(max(values), 1),
        "second_quarter": round(statistics.median(values[quarter : 2 * quarter] or values), 1),
        "last_quarter": round(statistics.median(values[-quarter:]), 1),
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = arguments("publish to committed row, and the memory of the services meanwhile")
    parser.add_argument("--agents", type=int, default=100)
    parser.add_argument("--rate", type=float, help="messages a second; without it, all at once")
    parser.add_argument("--seconds", type=float, default=60, help="with --rate")
    parser.add_argument("--messages", type=int, default=20_000, help="without --rate")
    parser.add_argument("--readings", type=int, default=READINGS, help="in each message")
    parser.add_argument("--format", default="msgpack+deflate")
    parser.add_argument("--broker", default="auto", choices=["auto", "mosquitto", "builtin"])
    parser.set_defaults(runs=1)
    options = parser.parse_args()
    results = [asyncio.run(measure(options)) for _ in range(options.runs)]
    value = statistics.median(one["value"] for one in results)
    for one in results:
        print(f"{one['value']:,} readings/s for {one['seconds']} s; {one['memory_mib']}")
    report = {"bench": "pipeline", "value": value, "unit": "readings/s", "baseline": None}
    report |= {"ratio": None, "runs": len(results), "machine": machine(), "results": results}
    if options.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
