"""S7: state polls answered 304, each agent by its own key, one web process, against Robyn alone.

The baseline is a plain function of Robyn that returns a constant: the fastest handler that Robyn
has, and faster than a coroutine, which is shown beside it. All three take turns in one run; a Rust
program asks. With `--growth` (S10) a process that knows 100 agents takes turns with one that knows
`--agents`. Processor time a request tells more than rates on a busy machine, so both are shown.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from harness import arguments, report
from iotistica import supervisor
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.device_keys import PURPOSE
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis, find_redis
from iotistica.settings import Settings
from iotistica.store.journal import Origin
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool
from iotistica.store.target_feed import TargetFeed
from iotistica.targets.state import Content

ROOT = Path(__file__).parents[1]
WEB = "iotistica.api.robyn_app"
TENANT = "0123456789ab"
CONFIG = {"logging": {"level": "info"}, "intervals": {"poll": 60}, "endpoints": []}
_TICKS = os.sysconf("SC_CLK_TCK")


def constant(port: int) -> None:
    """Robyn's own: handlers as its documentation shows them."""
    sys.argv = sys.argv[:1]
    from robyn import Robyn
    from robyn.argument_parser import Config

    config = Config()
    config.disable_openapi = True
    config.log_level = "ERROR"
    app = Robyn(os.devnull, config=config)

    @app.get("/function")
    def function(request: Any) -> str:
        return "constant"

    @app.get("/coroutine")
    async def coroutine(request: Any) -> str:
        return "constant"

    app.start(host=supervisor.LOOPBACK, port=port, _check_port=False)


@dataclass
class Side:
    """One thing that is measured."""

    name: str
    pid: int
    port: int
    requests: Path
    all_304: bool
    asked: int = 0
    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p99_us: list[int] = field(default_factory=list)

    def run(self, generator: Path, *, connections: int, seconds: float) -> None:
        """One round; it goes on with the agents that come after those of the last one."""
        before = cpu_s(self.pid)
        skip = self.asked // connections
        numbers = [str(number) for number in (self.port, connections, seconds)]
        command = [generator, *numbers, self.requests, str(skip)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        count, rate, not_modified, p99 = (int(part) for part in printed.split())
        if self.all_304 and not_modified != count:
            raise SystemExit(f"{self.name}: {not_modified} of {count} were answered 304")
        self.asked += count
        self.rates.append(rate)
        self.cpu_us.append((cpu_s(self.pid) - before) / max(count, 1) * 1e6)
        self.p99_us.append(p99)


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mib(pid: int) -> float:
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def build() -> Path:
    """The load generator: a Rust example, cheap enough to leave the cores to the server."""
    command = ["cargo", "build", "--quiet", "--release", "--package", "iotistica-door"]
    subprocess.run([*command, "--example", "poll"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "examples" / "poll"


@asynccontextmanager
async def servers(directory: Path) -> AsyncIterator[Settings]:
    """Private PostgreSQL and Redis."""
    postgres = Postgres(
        directory / "postgres",
        port=free_port(),
        password="bench",
        installation=find_postgres(),
        fsync=False,
    )
    redis = Redis(directory / "redis", port=free_port(), password="bench", binary=find_redis())
    await postgres.start()
    await redis.start()
    try:
        await migrate(postgres.url)
        yield Settings.load(
            database_url=postgres.url,
            redis_url=redis.url,
            jwt_secret="k" * 64,
            log_level="error",
            poll_max_per_minute=2**40,
        )
    finally:
        await redis.stop()
        await postgres.stop()


async def fill(settings: Settings, agents: list[str]) -> str:
    """Agents with a target state; its ETag."""
    url = settings.require("database_url")
    digests = AgentDigests(settings)
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, $1)", TENANT)
    await connection.copy_records_to_table(
        "agents",
        records=[(agent, TENANT, "bench", digests.of(PURPOSE, f"key-{agent}")) for agent in agents],
        columns=("uuid", "tenant_id", "name", "device_api_key_hash"),
    )
    await connection.execute("ANALYZE")
    await connection.close()
    pool = await open_pool(settings, application_name="bench")
    content = Content({}, CONFIG)
    made = await TargetFeed(pool).set_default(
        Origin(tenant=TENANT), content, served=content, author="bench", now=datetime.now(UTC)
    )
    await pool.close()
    return f'"{made.etag}"'


@contextmanager
def process(command: Sequence[str], *, assignment: bytes | None = None, port: int) -> Iterator[int]:
    """A server on this port; its process id."""
    started = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE)
    assert started.stdin is not None
    if assignment is not None:
        started.stdin.write(assignment)
        started.stdin.flush()
    try:
        wait_for(port)
        yield started.pid
    finally:
        started.kill()
        started.wait()


def wait_for(port: int) -> None:
    """Until it accepts connections."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection((supervisor.LOOPBACK, port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            time.sleep(1)
            return
    raise SystemExit(f"nothing listens on port {port}")


@contextmanager
def web(directory: Path, settings: Settings, agents: list[str], etag: str) -> Iterator[Side]:
    """A web process that knows these agents, each of which has polled once."""
    port = free_port()
    requests = directory / f"requests-{len(agents)}"
    requests.write_text(
        "\n".join(f"/api/v1/device/{agent}/state key-{agent} {etag}" for agent in agents)
    )
    role = supervisor.Role("web-0", WEB, {"port": port, "peers": {}})
    assignment = supervisor._assignment(role, settings)
    with process(["-m", WEB], assignment=assignment, port=port) as pid:
        yield Side(f"{len(agents)} agents", pid, port, requests, all_304=True)


def warm(side: Side, generator: Path, connections: int) -> None:
    """Let every agent poll once, however long that takes, and once as it will be measured."""
    for _ in range(2):
        side.run(generator, connections=connections, seconds=0)
    side.rates.clear()
    side.cpu_us.clear()
    side.p99_us.clear()


def settled(side: Side) -> None:
    """Wait until all that a new agent costs once is done: it is written that it came, and told."""
    idle = 0
    while idle < 10:
        before = cpu_s(side.pid)
        time.sleep(1)
        idle = idle + 1 if cpu_s(side.pid) - before < 0.05 else 0


async def run(options: Any) -> None:
    """Interleaved rounds of all sides."""
    generator = build()
    agents = [str(uuid.uuid4()) for _ in range(options.agents)]
    with tempfile.TemporaryDirectory(prefix="iotistica-bench-") as name:
        directory = Path(name)
        async with servers(directory) as settings:
            etag = await fill(settings, agents)
            with web(directory, settings, agents, etag) as ours:
                warm(ours, generator, options.connections)
                settled(ours)
                if options.growth:
                    with web(directory, settings, agents[:100], etag) as few:
                        warm(few, generator, options.connections)
                        settled(few)
                        rounds(options, generator, ours, few)
                        show(options, ours, few)
                else:
                    port = free_port()
                    with process([__file__, "--constant", str(port)], port=port) as pid:
                        sides = [constant_side(directory, pid, port, kind) for kind in KINDS]
                        rounds(options, generator, ours, *sides)
                        show(options, ours, *sides)


KINDS = ("function", "coroutine")


def constant_side(directory: Path, pid: int, port: int, kind: str) -> Side:
    """A handler that returns a constant; asked with the same headers."""
    requests = directory / kind
    requests.write_text(f'/{kind} key-{uuid.uuid4()} "{"0" * 40}"')
    return Side(kind, pid, port, requests, all_304=False)


def rounds(options: Any, generator: Path, *sides: Side) -> None:
    """All sides take turns."""
    for _ in range(options.runs):
        for side in sides:
            side.run(generator, connections=options.connections, seconds=options.seconds)


def show(options: Any, ours: Side, baseline: Side, *others: Side) -> None:
    """The table, and the line for machines."""
    extra: dict[str, Any] = {}
    for side in (ours, baseline, *others):
        cpu = round(statistics.median(side.cpu_us), 1)
        print(
            f"{side.name:>14}: {statistics.median(side.rates):>8,.0f}/s, {cpu} us of processor "
            f"time, p99 {statistics.median(side.p99_us) / 1000:.1f} ms, "
            f"{rss_mib(side.pid):.0f} MiB"
        )
        extra[f"{side.name.replace(' ', '_')}_cpu_us"] = cpu
    for side in others:
        extra[side.name] = round(statistics.median(side.rates))
    report(
        bench="poll_growth" if options.growth else "poll",
        runs=ours.rates,
        baselines=baseline.rates,
        unit="polls/s",
        as_json=options.json,
        baseline_is=baseline.name,
        cpu_ratio=round(statistics.median(baseline.cpu_us) / statistics.median(ours.cpu_us), 3),
        agents=options.agents,
        rss_mib=round(rss_mib(ours.pid)),
        **extra,
    )


def main() -> None:
    """Parse the arguments."""
    if sys.argv[1:2] == ["--constant"]:
        constant(int(sys.argv[2]))
        return
    parser = arguments(__doc__ or "")
    parser.add_argument("--agents", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    parser.add_argument("--growth", action="store_true", help="against 100 agents (S10)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
