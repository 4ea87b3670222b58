"""Exports through a whole platform: rows a second in each form, and what the web process takes.

The baseline is PostgreSQL's own COPY of the same rows, as CSV, to a client that drops them. Memory
is the peak of the web process (VmHWM) during an export, of few rows and of many: the same, if it
is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from harness import arguments, report
from iotistica.api.models.exports import ExportQuery
from iotistica.client import Client
from iotistica.errors import IotisticaError
from iotistica.operate.access import Access, find
from iotistica.simulator.target import from_directory

AGENT = UUID(int=1)
START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=60)
SERIES = 10
"""Of 1 Hz each."""
FORMS = ("csv", "ndjson", "parquet", "arrow")
FILL = """
INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
SELECT at, $1, 'metric-' || n, round((60 + random() * n)::numeric, 3), 'good', 'C', 'modbus',
       '{"device_name": "press-1"}'
FROM generate_series($2::timestamptz, $3::timestamptz - interval '1 s', '1 s') AS at,
     generate_series(1, $4) AS n
"""
COPY = """
SELECT * FROM readings WHERE agent_uuid = $1 AND time >= $2::timestamptz AND time < $3::timestamptz
"""


def say(what: str) -> None:
    """Progress, for people."""
    print(what, file=sys.stderr, flush=True)


async def started(directory: Path, program: subprocess.Popen[bytes]) -> Access:
    """The API of a stack that is coming up."""
    while program.poll() is None:
        await asyncio.sleep(0.2)
        with contextlib.suppress(IotisticaError):
            access = find(None, None, directory)
            async with Client(access.url, token=access.token) as client:
                [metric async for metric in client.readings.catalog()]
            return access
    raise SystemExit("iotistica up has ended")


def web_process(program: subprocess.Popen[bytes]) -> Path:
    """Of the stack: its directory in /proc."""
    parents: dict[int, int] = {}
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(one.name)] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
            if b"iotistica.api.robyn_app" in (one / "cmdline").read_bytes():
                found.append(int(one.name))
    for pid in found:
        above = pid
        while above > 1:
            if above == program.pid:
                return Path("/proc") / str(pid)
            above = parents.get(above, 0)
    raise SystemExit("there is no web process")


def peak_mib(process: Path) -> float:
    """Since `forget`."""
    line = next(
        one for one in (process / "status").read_text().splitlines() if one.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def forget(process: Path) -> None:
    """Let the peak begin anew."""
    (process / "clear_refs").write_text("5")


async def export(access: Access, form: str, end: datetime) -> tuple[float, int]:
    """Seconds and bytes."""
    begun, size = time.perf_counter(), 0
    query = ExportQuery(
        start=START.isoformat(),
        end=(end - timedelta(microseconds=1)).isoformat(),
        agent=[AGENT],
        format=form,  # type: ignore[arg-type]
    )
    async with Client(access.url, token=access.token) as client:
        async for piece in client.readings.export(query):
            size += len(piece)
    return time.perf_counter() - begun, size


async def copy(connection: asyncpg.Connection, end: datetime) -> float:
    """Seconds of the baseline."""

    async def drop(_piece: bytes) -> None:
        pass

    begun = time.perf_counter()
    await connection.copy_from_query(COPY, AGENT, START, end, output=drop, format="csv")
    return time.perf_counter() - begun


async def fill(connection: asyncpg.Connection, tenant: str, rows: int) -> None:
    """Make so many readings."""
    await connection.execute(
        "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'bench')", AGENT, tenant
    )
    first, days = int(START.timestamp()) // 86_400, rows // SERIES // 86_400 + 1
    await connection.execute("SELECT readings_make_days($1)", list(range(first, first + days)))
    end = START + timedelta(seconds=rows // SERIES)
    at = START
    while at < end:
        following = min(at + timedelta(days=1), end)
        await connection.execute(FILL, AGENT, at, following, SERIES, timeout=None)
        at = following
        say(f"made the readings up to {at:%Y-%m-%d}")
    await connection.execute("VACUUM ANALYZE readings", timeout=None)


async def measure(directory: Path, few: int, many: int, as_json: bool, runs: int) -> None:
    """All forms, few rows and many."""
    program = subprocess.Popen(
        [sys.executable, "-m", "iotistica", "up", "--data-dir", str(directory), "--api-port", "0",
         "--ingestion-port", "0", "--json"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        access = await started(directory, program)
        target = from_directory(directory)
        connection = await asyncpg.connect(target.database_url)
        tenant = await connection.fetchval("SELECT id FROM tenants LIMIT 1")
        await fill(connection, tenant, many)
        process = web_process(program)
        ends = {rows: START + timedelta(seconds=rows // SERIES) for rows in (few, many)}
        baselines = [many / await copy(connection, ends[many]) for _ in range(runs)]
        say(f"COPY: {statistics.median(baselines):,.0f} rows/s")
        for form in FORMS:
            peaks, rates, size = {}, {}, 0
            for rows in (few, many):
                forget(process)
                found = [await export(access, form, ends[rows]) for _ in range(runs)]
                rates[rows] = [rows / seconds for seconds, _ in found]
                peaks[rows], size = peak_mib(process), found[-1][1]
            report(
                bench=f"export.{form}",
                runs=rates[many],
                baselines=baselines,
                unit="rows/s",
                as_json=as_json,
                rows=many,
                bytes_per_row=round(size / many, 1),
                peak_mib={str(rows): round(peak, 1) for rows, peak in peaks.items()},
            )
            print(f"  {size / many:.1f} bytes a row; peak of the web process: " + ", ".join(
                f"{peak:.0f} MiB for {rows:,} rows" for rows, peak in peaks.items()
            ))  # fmt: skip
        await connection.close()
    finally:
        program.send_signal(signal.SIGINT)
        program.wait(60)


def main() -> None:
    """Run it."""
    parser = arguments("Exports through a whole platform")
    parser.add_argument("--few", type=int, default=500_000)
    parser.add_argument("--many", type=int, default=5_000_000)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="iotistica-bench-"))
    directory.chmod(0o711)
    try:
        asyncio.run(
            measure(directory, options.few, options.many, options.json, min(options.runs, 2))
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
