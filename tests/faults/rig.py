"""A private platform that can be hurt: real servers and services, with a proxy on every link."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from redis.asyncio import Redis as Client
from tests.faults import processes
from tests.faults.program import Program
from tests.faults.proxy import Proxy

from iotistica.credentials import User
from iotistica.embedded.broker import Broker, find_broker
from iotistica.embedded.carrier import find_postgres
from iotistica.embedded.ports import free_port, free_ports
from iotistica.embedded.postgres import Postgres
from iotistica.embedded.redis import Redis, find_redis
from iotistica.embedded.stack import BRIDGE_RULES, BRIDGE_USER
from iotistica.errors import StartFailed
from iotistica.simulator.target import BrokerFiles, Target
from iotistica.store.migrate import migrate

LINKS = {
    "api-broker": "broker",
    "api-redis": "redis",
    "api-postgres": "postgres",
    "ingestion-redis": "redis",
    "ingestion-postgres": "postgres",
}
"""Who talks to whom; each link has a proxy of its own. Agents reach the broker directly."""

MQTT_CLIENT = "rig"
SETTINGS = {
    # What a person would wait for is short here, so that a fault is over soon.
    "IOTISTICA_CLAIM_IDLE_MS": "3000",
    "IOTISTICA_DATABASE_STATEMENT_TIMEOUT_S": "4",
    "IOTISTICA_DATABASE_CONNECT_TIMEOUT_S": "3",
    "IOTISTICA_BREAKER_FAILURES": "5",
    "IOTISTICA_BREAKER_PROBE_S": "2",
    "IOTISTICA_BREAKER_SUCCESSES": "3",
    "IOTISTICA_MQTT_CLIENT_ID": MQTT_CLIENT,
    "IOTISTICA_JWT_SECRET": "only-for-the-rig-and-long-enough-to-be-taken",
    # The working directory is the rig's, which must not shadow modules.
    "PYTHONSAFEPATH": "1",
}
_REVIVE_S = 60.0
_CHILDREN = {
    "bridge": "iotistica.api.bridge",
    "control": "iotistica.api.control",
    "door": "iotistica.api.door",
    "web": "iotistica.api.robyn_app",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a rig is made of."""

    broker: str = "builtin"
    ingestions: int = 1
    spool: Path | None = None
    """Where the spools lie; None for a directory of the rig."""


class Rig:
    """All processes of one platform, below one directory. Use `running`."""

    def __init__(self, directory: Path, options: Options) -> None:
        self.directory = directory
        self.tenant = secrets.token_hex(6)
        self.spool = options.spool or directory / "spool"
        ports = free_ports(dict.fromkeys(["postgres", "redis", "broker", *LINKS], 0))
        self.postgres = Postgres(
            directory / "postgres",
            port=ports["postgres"],
            password=secrets.token_urlsafe(),
            installation=find_postgres(),
        )
        self.redis = Redis(
            directory / "redis",
            port=ports["redis"],
            password=secrets.token_urlsafe(),
            binary=find_redis(),
        )
        self.broker = Broker(
            directory / "broker", port=ports["broker"], program=find_broker(options.broker)
        )
        self._bridge_password = secrets.token_urlsafe()
        self.links = {
            name: Proxy(name, port=ports[name], target=ports[server])
            for name, server in LINKS.items()
        }
        self.api = self.program("api")
        self.ingestions = [self.program(f"ingestion-{n}") for n in range(options.ingestions)]
        self.kills: Counter[str] = Counter()
        """SIGKILLs that hit, by the name of the process."""

    @property
    def servers(self) -> dict[str, Postgres | Redis | Broker]:
        """PostgreSQL, Redis and the broker."""
        return {"postgres": self.postgres, "redis": self.redis, "broker": self.broker}

    @property
    def programs(self) -> dict[str, Program]:
        """Our services."""
        return {program.name: program for program in (self.api, *self.ingestions)}

    @property
    def target(self) -> Target:
        """Where the load goes, and where it is looked for: by no proxy."""
        credentials = self.broker.credentials
        return Target(
            tenant=self.tenant,
            database_url=self.postgres.url,
            redis_url=self.redis.url,
            mqtt_url=self.broker.url_for(BRIDGE_USER, self._bridge_password),
            broker=BrokerFiles(
                passwords=credentials.password_file,
                acl=credentials.acl_file,
                pid=self.broker.child.pid or 0,
            ),
        )

    def program(self, name: str, **environment: str) -> Program:
        """A service that is not started yet, called `api…` or `ingestion…`."""
        service = "api" if name.startswith("api") else "ingestion"
        target = self.target
        urls = {
            "DATABASE_URL": self._through(f"{service}-postgres", target.database_url),
            "REDIS_URL": self._through(f"{service}-redis", target.redis_url),
            "MQTT_URL": self._through("api-broker", target.mqtt_url),
            "IOTISTICA_SPOOL_DIR": str(self.spool),
        }
        return Program(
            name, service, self.directory, free_port(), {**SETTINGS, **urls, **environment}
        )

    def _through(self, link: str, url: str) -> str:
        parts = urlsplit(url)
        who = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{who}@127.0.0.1:{self.links[link].port}"))

    # Life

    async def start(self) -> None:
        """Start everything. Raises `StartFailed`."""
        await asyncio.gather(*(server.start() for server in self.servers.values()))
        await self.broker.add_users({BRIDGE_USER: User(self._bridge_password, BRIDGE_RULES)})
        await asyncio.gather(*(link.start() for link in self.links.values()))
        await migrate(self.postgres.url)
        connection = await self.sql()
        await connection.execute("INSERT INTO tenants (id, name) VALUES ($1, 'rig')", self.tenant)
        await connection.close()
        await asyncio.gather(*(program.start() for program in self.programs.values()))

    async def stop(self) -> list[str]:
        """Stop everything; sentences about what did not end as it should."""
        await self._let_go()
        wrong = []
        statuses = await asyncio.gather(*(p.stop() for p in self.programs.values()))
        for program, status in zip(self.programs.values(), statuses, strict=True):
            if status not in (0, None):
                wrong.append(f"{program.name} ended with status {status}; see {program.log}")
        await asyncio.gather(*(link.stop() for link in self.links.values()))
        await asyncio.gather(*(server.stop() for server in self.servers.values()))
        return wrong

    async def revive(self, name: str) -> None:
        """Start a program or server again. Raises `StartFailed` where it refuses for long."""
        thing = self.programs.get(name) or self.servers[name]
        deadline = time.monotonic() + _REVIVE_S
        while not thing.child.running:
            try:
                await thing.start()
            except StartFailed:
                # Its predecessor's children may hold the port for a moment.
                if time.monotonic() > deadline:
                    raise

    async def heal(self) -> None:
        """End what an episode that was broken off may have left. Raises `StartFailed`."""
        await self._let_go()
        for name in [*self.servers, *self.programs]:
            await self.revive(name)

    async def _let_go(self) -> None:
        await asyncio.gather(*(link.resume() for link in self.links.values()))
        for pid in [*self.pids().values(), *self.backends()]:
            processes.send(pid, signal.SIGCONT)

    # Processes

    def pids(self) -> dict[str, int]:
        """Every process that runs and can be hurt, by name."""
        things = {**self.servers, **self.programs}
        pids = {
            name: thing.child.pid
            for name, thing in things.items()
            if thing.child.running and thing.child.pid is not None
        }
        if supervisor := pids.get("api"):
            for name, module in _CHILDREN.items():
                for pid in processes.children(supervisor, module):
                    pids[name] = pid
        return pids

    def backends(self) -> list[int]:
        """Processes of PostgreSQL that serve the platform's sessions."""
        postmaster = self.postgres.child.pid
        return processes.children(postmaster, " 127.0.0.1(") if postmaster else []

    async def kill(self, name: str) -> None:
        """SIGKILL a process; returns when it is gone. Whoever keeps it must start it again."""
        pid = self.pids().get(name)
        if pid is None or not processes.send(pid, signal.SIGKILL):
            return
        self.kills[name] += 1
        thing = self.programs.get(name) or self.servers.get(name)
        if thing is not None:
            await thing.child.wait()
        else:
            await processes.ended(pid, 5.0)

    # Servers, from beside

    async def sql(self, database: str = "iotistica") -> asyncpg.Connection:
        """A connection of a superuser."""
        url = urlunsplit(urlsplit(self.postgres.url)._replace(path=f"/{database}"))
        return await asyncpg.connect(url, timeout=10)

    async def answers(self) -> bool:
        """Whether PostgreSQL takes a statement: not while it recovers from a crash."""
        try:
            connection = await self.sql()
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    @asynccontextmanager
    async def redis_client(self) -> AsyncIterator[Client]:
        """A client of Redis."""
        async with Client.from_url(self.redis.url, protocol=2) as client:
            yield client


@asynccontextmanager
async def running(options: Options, *, keep: bool = False) -> AsyncIterator[Rig]:
    """A rig that runs, in a temporary directory that goes with it unless `keep`.

    Whatever happens, no process of it is left. Raises `StartFailed`, and `RuntimeError` where the
    end was not as it should be.
    """
    directory = Path(tempfile.mkdtemp(prefix="iotistica-faults-"))
    rig = Rig(directory, options)
    wrong: list[str] = []
    try:
        await rig.start()
        yield rig
    finally:
        wrong += await rig.stop()
        wrong += [f"process {one.pid} is left: {one.command}" for one in await _remains(directory)]
        if not keep:
            shutil.rmtree(directory, ignore_errors=True)
    if wrong:
        raise RuntimeError("; ".join(wrong))


async def _remains(directory: Path) -> list[processes.Process]:
    """What still runs when everything has had time to end; it is killed."""
    deadline = time.monotonic() + 15.0
    while (left := processes.left_behind(directory)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    for process in left:
        processes.send(process.pid, signal.SIGKILL)
    return left
